"""How recordings are shown: in templates, as JSON, and as CSV."""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime, timedelta
from typing import Any

from flask import Response, url_for

from ..catalog.catalog import Catalog, Page
from ..catalog.description import Description
from ..catalog.search import Query
from .query import link, url
from .transcript import excerpt, pieces

DAYS = 30  # in the chart
# What a spreadsheet takes for a formula, unless it is a mere number: +15550100 is the number of a
# caller, has no effect as a formula, and has to reach other programs as it is.
_FORMULA = re.compile(r"(?![+-]?[0-9]+\Z)[=+@\t\r\n\uff1d\uff0b\uff20\uff0d-]")
_UNSAFE_IN_FILENAMES = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u200e\u200f\u202a-\u202e]+')


@dataclass(frozen=True)
class Day:
    """A day in the chart; heights are between 0 and 1."""

    day: date
    count: int
    size: int
    count_height: float
    size_height: float


def last_days(catalog: Catalog) -> list[Day]:
    """The last days up to today, also those without recordings."""
    first = date.today() - timedelta(days=DAYS - 1)
    known = catalog.days(first)
    days = [first + timedelta(days=n) for n in range(DAYS)]
    totals = [known.get(day, (0, 0)) for day in days]
    most = max(count for count, _ in totals) or 1
    largest = max(size for _, size in totals) or 1
    return [
        Day(day, count, size, count / most, size / largest)
        for day, (count, size) in zip(days, totals, strict=True)
    ]


def moment(timestamp: float) -> datetime | None:
    """A time in the server's time zone; none where it is unknown or no calendar has it."""
    if not timestamp:
        return None
    try:
        return datetime.fromtimestamp(timestamp).astimezone()
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


def summary(recording: Description) -> str:
    """A recording in a few words."""
    parties = [(caller(recording) or [""])[0], (callee(recording) or [""])[0]]
    return " to ".join(filter(None, parties)) or recording.call_id or "recording"


FILTERS = (moment, clock, position, caller, callee, summary, excerpt, pieces)  # for templates


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


def as_json(recording: Description, search: str = "") -> dict[str, Any]:
    about = {name.rstrip("_"): value for name, value in asdict(recording).items()}
    del about["transcript"]  # who reads one is noted, so that it is only among the details
    return about | {
        "received": as_iso(recording.received),
        "start": as_iso(recording.start),
        "duration": recording.duration or None,
        "excerpt": excerpt(recording.transcript, search) or None,
        "play": url(play=recording.path),
        "download": url(download=recording.path),
        "details": url(details=recording.path),
    }


def as_iso(timestamp: float) -> str | None:
    time = moment(timestamp)
    return time.isoformat(timespec="seconds") if time else None


def list_as_json(query: Query, found: Page, days: list[Day]) -> Response:
    base = url_for("browse.page")
    pages = {"next": ("after", found.next), "previous": ("before", found.previous)}
    return json_response(
        {"recordings": [as_json(each, query.text) for each in found.recordings]}
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
    }
    return [cell(str(known[name] or "")) for name in columns]


def cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def _encode(rows: list[list[str]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines).writerows(rows)
    return lines.getvalue().encode("utf-8", "replace")
