"""The algebra of stored paths: numbered copies, what lies beside them, and back again."""

import re
from collections.abc import Iterable
from contextlib import suppress

from ..core.naming import EXTENDED, RecordingName, decode, has_extension
from ..errors import InvalidName
from ..formats import FORMATS, SIDECARS

STEP = "new"  # what numbers a recording that is about to take its name

_EXTENSION = "|".join(FORMATS)
_SIDECAR = re.compile(rf"(?P<recording>.+?)(?P<bare>~?)\.({'|'.join(SIDECARS)})", re.DOTALL)
_NUMBER = re.compile(rf"~[0-9]{{1,9}}(?=(?:\.(?:{_EXTENSION}))?$)")
_STEP = re.compile(rf".+~{STEP}(\.({_EXTENSION}))?", re.DOTALL)


def numbered(path: str, number: int | str) -> str:
    """The stored path of an older recording that was superseded at `path`; 0 is the newest."""
    if not number:
        return path
    match = EXTENDED.fullmatch(path)
    return f"{match[1]}~{number}.{match[2]}" if match else f"{path}~{number}"


def is_recording(filename: str) -> bool:
    """Whether a stored file is a recording, and not a sidecar, hidden or an unfinished step."""
    if filename.startswith(".") or _STEP.fullmatch(filename):
        return False
    about = _SIDECAR.fullmatch(filename)
    return not (about and (about["bare"] or has_extension(about["recording"])))


def number_of(path: str) -> int:
    """The number of a superseded recording's stored path; 0 for one that has its name."""
    match = _NUMBER.search(path)
    return int(match[0][1:]) if match else 0


def described(path: str) -> str:
    """The stored path of the recording that a sidecar is about; "" where it is none."""
    folder, slash, filename = path.rpartition("/")
    about = _SIDECAR.fullmatch(filename)
    if not about or is_recording(filename) or not is_recording(about["recording"]):
        return ""
    return folder + slash + about["recording"]


def newest_first(paths: Iterable[str]) -> list[str]:
    """The stored paths of recordings of one name, in the order of their age."""
    return sorted(set(paths), key=lambda path: (number_of(path) > 0, -number_of(path)))


def original(path: str) -> str:
    """The stored path of the name that a superseded recording had: without its number."""
    return _NUMBER.sub("", path)


def extension_of(path: str) -> str:
    """The extension of a stored recording, "" if there is none."""
    match = EXTENDED.fullmatch(path)
    return match[2] if match else ""


def call_id_of(path: str) -> str:
    """The Call-ID of a stored recording, as far as its path tells."""
    stem = original(path).rpartition("/")[2]
    if match := EXTENDED.fullmatch(stem):
        stem = match[1]
    return decode(stem.partition("~")[0]).encode("utf-8", "replace").decode()


def url_of(path: str) -> str | None:
    """The path of the URL that stores and reads a recording; numbered copies have none."""
    with suppress(InvalidName):
        name = RecordingName.parse(path)
        if str(name) == path:
            return name.to_url()
    return None
