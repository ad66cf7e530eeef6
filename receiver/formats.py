"""The formats of recordings, and of the files beside them: the only table of extensions.

What ends a name as one of these, in any case, is its extension; any other ending belongs to the
Call-ID, because Call-IDs end in host names and addresses: "abc123@10.0.0.1" has no extension.
"""

from typing import NamedTuple

ANY_TYPE = "application/octet-stream"


class Format(NamedTuple):
    """A format's media type; whether it may be heard; whether browsers may show or play it."""

    media_type: str
    is_audio: bool
    is_shown: bool = False

    @property
    def player(self) -> str:
        """The HTML element that plays it; "" where it is none that browsers play."""
        return self.media_type.partition("/")[0] if self.is_audio and self.is_shown else ""


FORMATS = {
    "aac": Format("audio/aac", True, True),
    "aif": Format("audio/x-aiff", True),
    "aiff": Format("audio/x-aiff", True),
    "alaw": Format(ANY_TYPE, True),
    "amr": Format("audio/amr", True),
    "au": Format("audio/basic", True),
    "flac": Format("audio/flac", True, True),
    "gsm": Format(ANY_TYPE, True),
    "hold": Format(ANY_TYPE, False),
    "json": Format("application/json", False),
    "m4a": Format("audio/mp4", True, True),
    "mkv": Format("video/x-matroska", True),
    "mov": Format("video/quicktime", True),
    "mp2": Format("audio/mpeg", True),
    "mp3": Format("audio/mpeg", True, True),
    "mp4": Format("video/mp4", True, True),
    "mpeg": Format("video/mpeg", True),
    "mpg": Format("video/mpeg", True),
    "oga": Format("audio/ogg", True, True),
    "ogg": Format("audio/ogg", True, True),
    "opus": Format("audio/ogg", True, True),
    "pcm": Format(ANY_TYPE, True),
    "pdf": Format("application/pdf", False, True),
    "ps": Format("application/postscript", False),
    "raw": Format(ANY_TYPE, True),
    "sln": Format(ANY_TYPE, True),
    "tif": Format("image/tiff", False, True),
    "tiff": Format("image/tiff", False, True),
    "txt": Format("text/plain", False, True),
    "ulaw": Format(ANY_TYPE, True),
    "vtt": Format("text/vtt", False),
    "wav": Format("audio/x-wav", True, True),
    "wave": Format("audio/x-wav", True),
    "webm": Format("audio/webm", True, True),
    "wma": Format("audio/x-ms-wma", True),
}
UNKNOWN = Format(ANY_TYPE, True)  # Kazoo leaves the extension out where no format is set
SIDECARS = ("json", "txt", "vtt", "hold")  # kinds of files that lie beside a recording


def format_of(extension: str) -> Format:
    """What is known of an extension, which may be in any case."""
    return FORMATS.get(extension.lower(), UNKNOWN)
