"""The algebra of stored paths: numbered copies, what lies beside them, and back again."""

import re
from collections.abc import Iterable
from contextlib import suppress

from ..core.naming import BARE, EXTENDED, RecordingName, decode, has_extension
from ..errors import InvalidName
from ..formats import FORMATS, SIDECARS

NEW = "new"  # in place of a number: a recording that is about to take its name

_EXTENSION = "|".join(FORMATS)
_SIDECAR = re.compile(rf"(?P<recording>.+?)(?P<bare>~?)\.({'|'.join(SIDECARS)})", re.DOTALL)
_ENDING = rf"(?:\.(?ai:{_EXTENSION}))?"
_NUMBER = re.compile(rf"~[0-9]{{1,9}}(?={_ENDING}$)")
_STEP = re.compile(rf"(.+)~{NEW}({_ENDING})", re.DOTALL)
_HIDDEN_STEP = re.compile(
    rf"\.(?:(.+?)~?\.(?:{'|'.join(SIDECARS)})\.new|(.+)\.(?:gone|keep))", re.DOTALL
)
_FOLDER_DOT = re.compile(rf"(?<=[^/])\.(?=(?ai:{_EXTENSION})/)")
_FOLDER_ENDING = re.compile(rf"(?<=[^/])%2E(?=(?ai:{_EXTENSION})/)")


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


def left_by(filename: str) -> str | None:
    """The name of the recording whose unfinished step a stored file is; None if it is none.

    What an earlier release gave another name is such a step, too.
    """
    if step := _STEP.fullmatch(filename):
        return step[1] + step[2]
    if about := was_beside(filename):
        return about
    step = _HIDDEN_STEP.fullmatch(filename)
    return step[1] or step[2] if step else None


def gone(filename: str) -> str:
    """The hidden name of a recording that is being deleted: no other program's file has such."""
    return f".{filename}.gone"


def keep(filename: str) -> str:
    """The hidden name of one that is about to get a number, because another takes its name."""
    return f".{filename}.keep"


def recording_of(path: str) -> str:
    """The stored path of the recording that a sidecar belongs to; "" of what is none, or hidden."""
    folder, slash, filename = path.rpartition("/")
    about = _SIDECAR.fullmatch(filename)
    is_hidden = any(part.startswith(".") for part in path.split("/"))
    if not about or is_hidden or is_recording(filename) or not is_recording(about["recording"]):
        return ""
    return folder + slash + about["recording"]


def newest_first(paths: Iterable[str]) -> list[str]:
    """The stored paths of recordings of one name, in the order of their age."""
    return sorted(set(paths), key=lambda path: (number_of(path) > 0, -number_of(path)))


def original(path: str) -> str:
    """The stored path of the name that a superseded recording had: without its number."""
    return _NUMBER.sub("", path)


def number_of(path: str) -> int:
    """The number of a superseded recording, 0 for the newest."""
    number = _NUMBER.search(path)
    return int(number[0][1:]) if number else 0


def older(path: str) -> str:
    """The stored path that earlier releases gave to the recording at `path`; mostly the same.

    They stored `CALL_ID` in place of `CALL_ID~`, and let folders end as recordings do.
    """
    return _FOLDER_ENDING.sub(".", path).removesuffix(BARE)


def stems(path: str) -> list[str]:
    """What the numbered names of the recording at `path` begin with, before `~` and a number.

    Earlier releases, which knew no endings in capitals, numbered `X.WAV` as `X.WAV~1`.
    """
    extension = extension_of(path)
    stem = path.removesuffix(f".{extension}")
    return [stem] if extension == extension.lower() else [stem, path]


def older_beside(path: str, kind: str) -> str:
    """Where earlier releases put what lies beside the recording at `path`; "" for the same place.

    They knew no endings in capitals: what lay beside `X.WAV` was `X.WAV~.json`.
    """
    extension = extension_of(path)
    return f"{path}~.{kind}" if extension != extension.lower() else ""


def was_beside(filename: str) -> str:
    """The name of the recording beside which earlier releases put a stored file; "" if none is."""
    about = None if filename.startswith(".") else _SIDECAR.fullmatch(filename)
    is_older = about and about["bare"] and older_beside(about["recording"], "json")
    return about["recording"] if about and is_older else ""


def folder_of(path: str) -> str:
    """The folder of a stored recording, as a `RecordingName` has it, whatever release made it."""
    return _FOLDER_DOT.sub("%2E", path).rpartition("/")[0]


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
    folder, _, filename = path.rpartition("/")
    match = EXTENDED.fullmatch(filename)
    stem, extension = match.groups() if match else (filename.removesuffix(BARE), "")
    url = RecordingName(folder, decode(stem), extension).to_url()
    with suppress(InvalidName):
        found = str(RecordingName.parse(url))
        if path in (found, older(found)):
            return url
    return None
