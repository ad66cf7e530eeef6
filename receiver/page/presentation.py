"""How recordings are shown: in templates, as JSON, and as CSV."""

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from flask import Response, current_app, url_for

from ..catalog.catalog import Catalog, Page
from ..catalog.description import Description
from ..catalog.search import Query
from .query import audio, link, url
from .transcript import excerpt, pieces

DAYS = 30  # in the chart
# What a spreadsheet takes for a formula, where a cell begins with it, or a part of a cell behind
# what some country's lists are separated by; blanks and quotes before it may be passed over. A mere
# number is none: +15550100 is that of a caller, and has to reach other programs as it is.
_SEPARATORS = r",;|\t\r\n\v\f\x1c-\x1f\x85\u2028\u2029"
_FORMULA = re.compile(
    rf"(?<![^{_SEPARATORS}])"
    r"(?=[\x00-\x08\x0e-\x1b \x7f-\x84\x86-\xa0\xad\u1680\u2000-\u200f\u202a-\u202f\u205f-\u206f"
    r"\u3000\ufeff\"']*[=+@\uff1d\uff0b\uff20\uff0d-])"
    r"(?![+-]?[0-9]+(?:\Z|[,;|\t]))"
)
_UNSAFE_IN_FILENAMES = re.compile(
    r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u200e\u200f\u202a-\u202e\u2066-\u2069]+'
)
_RIGHT_TO_LEFT = ("R", "AL", "AN", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "FSI")
_ISOLATE, _END_ISOLATE = "\N{FIRST STRONG ISOLATE}", "\N{POP DIRECTIONAL ISOLATE}"
_FORMATTING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Day:
    """A day in the chart; heights are between 0 and 1."""

    day: date
    count: int
    size: int
    count_height: float
    size_height: float


def zone() -> tzinfo | None:
    """The time zone of all days and times; None is the system's."""
    found: tzinfo | None = current_app.config["TIMEZONE"]
    return found


def zone_name() -> str:
    """What the time zone is called."""
    if (configured := zone()) is not None:
        return str(configured)
    place = os.environ.get("TZ", "").lstrip(":") or os.path.realpath("/etc/localtime")
    place = (place.partition("zoneinfo/")[2] or place).removeprefix("Etc/")
    now = datetime.now().astimezone()
    with suppress(ValueError, OSError, LookupError):
        if now.astimezone(ZoneInfo(place)).utcoffset() == now.utcoffset():
            return place
    # Where TZ is no zone that the system knows, its times are UTC, under a name made from that.
    return (now.tzname() if now.utcoffset() else "") or "UTC"


def today() -> date:
    return datetime.now(zone()).date()


def last_days(catalog: Catalog, time: str) -> list[Day]:
    """The last days up to today, also those without recordings."""
    first = today() - timedelta(days=DAYS - 1)
    known = catalog.days(first, today(), time)
    days = [first + timedelta(days=n) for n in range(DAYS)]
    totals = [known.get(day, (0, 0)) for day in days]
    most = max(count for count, _ in totals) or 1
    largest = max(size for _, size in totals) or 1
    return [
        Day(day, count, size, count / most, size / largest)
        for day, (count, size) in zip(days, totals, strict=True)
    ]


def moment(timestamp: float) -> datetime | None:
    """A time in the page's zone; none where it is unknown or no calendar has it."""
    if not timestamp:
        return None
    try:
        return datetime.fromtimestamp(timestamp, zone()).astimezone(zone())
    except (ValueError, OverflowError, OSError):
        return None


def clock(seconds: float) -> str:
    """A duration, such as 1:02:03."""
    return position(seconds + 0.5)


def position(seconds: float) -> str:
    """A time in a recording as players show it, which do not round it up."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def caller(recording: Description) -> list[str]:
    """Who called: a name and a number, one of them, or nothing."""
    return _party(recording.caller_name, recording.caller_number, recording.from_)


def callee(recording: Description) -> list[str]:
    """Who was called, likewise."""
    return _party(recording.callee_name, recording.callee_number, recording.to)


def _party(name: str, number: str, address: str) -> list[str]:
    number = number or address.removeprefix("sip:").partition("@")[0]
    return list(dict.fromkeys(filter(None, (name, number))))


def parties(recording: Description) -> list[str]:
    """Who called whom, or else what the recording is called."""
    both = [(caller(recording) or [""])[0], (callee(recording) or [""])[0]]
    return list(filter(None, both)) or [recording.call_id or "recording"]


def summary(recording: Description) -> str:
    """A recording in a few words."""
    return " to ".join(parties(recording))


def title(recording: Description) -> str:
    """The same where there can be no markup: each name keeps its direction of writing to itself."""
    return " to ".join(map(isolated, parties(recording)))


def isolated(text: str) -> str:
    if all(unicodedata.bidirectional(char) not in _RIGHT_TO_LEFT for char in text):
        return text
    return _ISOLATE + _FORMATTING.sub("", text) + _END_ISOLATE


def short(account: str) -> str:
    """An account in few characters: of Kazoo's ids, the first."""
    return f"{account[:8]}…" if len(account) > 12 else account


# For templates.
FILTERS = (audio, moment, clock, position, caller, callee, parties, summary, title, short, pieces)


def flat(told: dict[str, Any]) -> dict[str, str]:
    """Metadata as names and texts; what is in objects gets names with dots."""
    found: dict[str, str] = {}
    for name, value in told.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": _as_text(value[inner]) for inner in value}
        else:
            found[name] = _as_text(value)
    return found


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def filename(recording: Description, extension: str) -> str:
    """A name for the recording's file, or one about it, on any computer."""
    time = moment(recording.start) or moment(recording.received)
    stem = f"{time:%Y-%m-%d %H.%M} " if time else ""
    stem += _UNSAFE_IN_FILENAMES.sub("_", summary(recording))[:100].strip(" .")
    ending = f".{extension}" if extension else ""
    return stem.encode("utf-8", "replace").decode() + ending


def as_json(recording: Description, said: str = "") -> dict[str, Any]:
    """What is known of a recording, and of its transcript an excerpt."""
    about = {name.rstrip("_"): value for name, value in asdict(recording).items()}
    del about["transcript"]  # who reads one is noted, so that it is only among the details
    return about | {
        "received": as_iso(recording.received),
        "start": as_iso(recording.start),
        "began": as_iso(recording.began),
        "duration": recording.duration or None,
        "excerpt": said or None,
        "play": url(**audio(recording, "play")),
        "download": url(**audio(recording, "download")),
        "details": url(details=recording.path),
    }


def as_iso(timestamp: float) -> str | None:
    time = moment(timestamp)
    return time.isoformat(timespec="seconds") if time else None


def excerpts(recordings: Iterable[Description], search: str) -> dict[str, str]:
    """What a search found in transcripts, by the recordings' paths."""
    found = {each.path: excerpt(each.transcript, search) for each in recordings}
    return {path: said for path, said in found.items() if said}


def list_as_json(query: Query, found: Page, days: list[Day], said: Mapping[str, str]) -> Response:
    base = url_for("browse.page")
    pages = {"next": ("after", found.next), "previous": ("before", found.previous)}
    return json_response(
        {"timezone": zone_name()}
        | {"recordings": [as_json(each, said.get(each.path, "")) for each in found.recordings]}
        | {
            name: base + link(query, format="json", **{side: cursor}) if cursor else None
            for name, (side, cursor) in pages.items()
        }
        | {
            "days": [
                {"day": each.day.isoformat(), "recordings": each.count, "bytes": each.size}
                for each in days
            ]
        }
    )


def json_response(value: object) -> Response:
    return Response(json.dumps(value, indent=1) + "\n", mimetype="application/json")


def csv_lines(catalog: Catalog, query: Query, page: Page) -> Iterator[bytes]:
    """The recordings on a search's page and on all that follow, as a table for spreadsheets.

    Transcripts are left out: they are longer than a spreadsheet's cells.
    """
    columns = [field.name for field in fields(Description) if field.name != "transcript"]
    # Without the mark, Excel takes UTF-8 for the encoding of the computer's country.
    yield b"\xef\xbb\xbf" + _encode([[name.rstrip("_") for name in columns]])
    while page.recordings:
        yield _encode([_cells(each, columns) for each in page.recordings])
        page = catalog.search(replace(query, after=page.next)) if page.next else Page([])


def _cells(recording: Description, columns: list[str]) -> list[str]:
    known = asdict(recording) | {
        "received": as_iso(recording.received),
        "start": as_iso(recording.start),
        "began": as_iso(recording.began),
    }
    return [cell(str(known[name] or "")) for name in columns]


def cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula, whatever it separates cells by."""
    safe = _FORMULA.sub("'", text)
    return safe if safe == text or safe.startswith("'") else f"'{safe}"


def _encode(rows: list[list[str]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines).writerows(rows)
    return lines.getvalue().encode("utf-8", "replace")
