"""Names of recordings: from the URL that Kazoo requests to the file that is stored.

Kazoo sends a recording to `URL/call_recording_CALL_ID.EXT`. Current releases double the dot
before the extension, and leave the extension out (but not its dot) where no format is set.
"""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from urllib.parse import quote, unquote_to_bytes

from werkzeug.routing import BaseConverter

from ..errors import InvalidName
from ..formats import FORMATS, SIDECARS

LONGEST_FILENAME = 240  # bytes; file systems take 255, "~12345" and ".json" may be added
LONGEST_FOLDER = 700  # bytes; with the name, a key of a bucket takes 1024
DEEPEST_FOLDER = 16
BARE = "~"  # ends the stored name of a recording without an extension, and no folder's
NO_NAME = (
    "the URL holds no recording name: send call_recording_CALL_ID.EXT; in a storage plan, leave "
    "the field list as it is, and put user:secret@ into the URL in place of a query"
)

_EXTENSION = "|".join(FORMATS)
_RECORDING = re.compile(r"(?:|(?P<folder>.*?)/)call_recording_(?P<name>.*)", re.DOTALL)
_PLAIN = re.compile(r"(?:(?P<folder>.*)/)?(?P<name>.*)", re.DOTALL)
_ANY_CASE = re.DOTALL | re.IGNORECASE | re.ASCII
_NAME = re.compile(rf"(?P<call_id>.+?)(?:\.?\.(?P<extension>{_EXTENSION})|\.)?", _ANY_CASE)
EXTENDED = re.compile(rf"(.+)\.({_EXTENSION})", _ANY_CASE)
_NOT_ORDINARY = re.compile(rb"^\.|[^A-Za-z0-9@._+-]")


@dataclass(frozen=True)
class RecordingName:
    """A recording's name.

    `folder` is the stored path of its folder, "" for the storage's root, else like "ACCOUNT/USER":
    none of its parts is named as a file could be;
    `call_id` is the Call-ID as SIP has it (bytes that are not UTF-8 as surrogate escapes);
    `extension` comes without its dot, in the case that was sent, "" if there is none.
    """

    folder: str
    call_id: str
    extension: str

    @classmethod
    def parse(cls, path: str) -> "RecordingName":
        """Return the name that the path of a URL holds, or raise `InvalidName`.

        `path` is still percent-encoded and has no leading slash. From the first segment that
        begins with `call_recording_` on, everything is the name, slashes included; without such
        a segment, the last one is the name. What comes before is the folder.
        """
        match = _RECORDING.fullmatch(path) or _PLAIN.fullmatch(path)
        assert match  # noqa: S101 - for mypy: the plain form matches any text
        folders = [decode(part) for part in (match["folder"] or "").split("/") if part]
        name = _NAME.fullmatch(decode(match["name"]))
        if not name:
            raise InvalidName(NO_NAME)
        if {".", ".."} & {name[0], *folders}:
            raise InvalidName("the URL holds a '.' or '..' segment: remove it")
        if len(folders) > DEEPEST_FOLDER:
            raise InvalidName(f"the URL has over {DEEPEST_FOLDER} folders before the name")
        stored = [_without_extension(_encode(part)) for part in folders]
        folder = "/".join(stored)
        if len(folder) > LONGEST_FOLDER or any(len(part) > LONGEST_FILENAME for part in stored):
            raise InvalidName("a folder's name in the URL is too long")
        return cls(folder, name["call_id"], name["extension"] or "")

    @cached_property
    def filename(self) -> str:
        """The stored file's name, `CALL_ID.EXT` or `CALL_ID~`; no two names share it.

        Bytes outside `A-Z a-z 0-9 @ . _ + -`, and a leading dot, are percent-encoded. A Call-ID
        too long for a file system ends in `~` and its SHA-256 instead.
        """
        stem, ending = _encode(self.call_id), f".{self.extension}" if self.extension else ""
        if self.extension in ("", *SIDECARS):
            stem = _without_extension(stem)
        if len(stem) + len(ending) > LONGEST_FILENAME:
            digest = sha256(_to_bytes(self.call_id)).hexdigest()
            start = stem[: LONGEST_FILENAME - len(ending) - len(digest) - 1]
            stem = re.sub("%.?$", "", start) + "~" + digest
        return stem + (ending or BARE)

    def __str__(self) -> str:
        """The path of the stored file below the storage's root; printable ASCII."""
        return f"{self.folder}/{self.filename}" if self.folder else self.filename

    def to_url(self) -> str:
        """The path of a URL that `parse` takes back to this name."""
        call_id = quote(_to_bytes(self.call_id), safe="@+")
        dot = ".." if call_id.endswith(".") and self.extension else "."
        # A folder that begins like a recording would be taken for it.
        folder = re.sub(r"(^|/)c(?=all_recording_)", r"\1%63", self.folder)
        name = f"call_recording_{call_id}{dot}{self.extension}"
        return f"{folder}/{name}" if folder else name


@lru_cache  # each name is asked for several times in a row
def has_extension(name: str) -> bool:
    """Whether a name ends in an extension, as those of recordings do."""
    return bool(EXTENDED.fullmatch(name))


def sidecar(path: str, kind: str) -> str:
    """The stored path of a further file about the recording that is stored as `path`."""
    return path + ("." if has_extension(path) else "~.") + kind


def decode(text: str) -> str:
    """Percent-encoded text as SIP has it; bytes that are not UTF-8 are surrogate escapes."""
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _encode(text: str) -> str:
    return _NOT_ORDINARY.sub(lambda match: b"%%%02X" % ord(match[0]), _to_bytes(text)).decode()


def _without_extension(stored: str) -> str:
    match = EXTENDED.fullmatch(stored)
    return "%2E".join(match.groups()) if match else stored


class RecordingConverter(BaseConverter):
    r"""The rewrite rule `^kzr/call_recording_(.+)\.(.+)$` as a URL rule, for any folder."""

    regex = "(?:.*?/)?call_recording_.*"
    part_isolating = False

    def to_python(self, value: str) -> RecordingName:
        return RecordingName.parse(value)

    def to_url(self, value: RecordingName) -> str:
        return value.to_url()


class PlainConverter(RecordingConverter):
    """Names without `call_recording_`: `record_caller` of Kazoo 4.3, storage plans."""

    regex = ".+"
    part_isolating = False
    weight = 200  # after every other rule
