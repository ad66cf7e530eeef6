"""Transcripts for people: what is said when, and where in it a search found something."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..catalog.words import SPACELESS, cut, folded, parts_of

BEFORE, AFTER = 70, 130  # characters of an excerpt around the first word that was found

_BREAK = re.compile(r"\r\n|\r|\n")
_TIMES = re.compile(r"[ \t]*([0-9:.,]+)[ \t]*-->[ \t]*([0-9:.,]+)(?:[ \t].*)?")
_TIME = re.compile(r"(?:([0-9]{1,4}):)?([0-9]{1,2}):([0-9]{1,2})(?:[.,]([0-9]{1,3}))?")
_VOICE = re.compile(r"<v(?:\.[^<> ]*)? ([^<>]+)>")
_TAG = re.compile(r"<[^<>]*>")
_NO_CUE = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
_CLOSING = ".,;:!?…'\"’”»)"


@dataclass(frozen=True)
class Segment:
    """What is said from one second of a recording to another."""

    start: float
    end: float
    text: str


def parse_vtt(data: bytes) -> list[Segment]:
    """The segments of a WebVTT file, in order and without markup.

    There are none if a part of it cannot be read, because what is left would pass for the whole.
    """
    text = data.decode("utf-8-sig", "replace").replace("\0", "")
    lines = [line.rstrip() for line in _BREAK.split(text)]
    if not lines[0].startswith("WEBVTT"):
        return []
    blocks = "\n".join(lines).split("\n\n")
    try:
        cues = [_segment(block) for block in blocks[1:]]
    except ValueError:
        return []
    return sorted((cue for cue in cues if cue and cue.text), key=lambda cue: cue.start)


def _segment(block: str) -> Segment | None:
    """The segment of a block; None for a block that is no cue; raises `ValueError`."""
    lines = block.strip("\n").split("\n")
    if "-->" not in lines[0]:  # a cue may have a name
        lines = lines[1:]
    if _NO_CUE.match(block.lstrip("\n")) or not lines or "-->" not in lines[0]:
        return None
    times = _TIMES.fullmatch(lines[0])
    if not times:
        raise ValueError(lines[0])
    start, end = _seconds(times[1]), _seconds(times[2])
    if start > end:
        raise ValueError(lines[0])
    said = " ".join(" ".join(lines[1:]).split())
    said = _TAG.sub("", _VOICE.sub(r"\1: ", said))
    return Segment(start, end, " ".join(html.unescape(said).split()))


def _seconds(text: str) -> float:
    time = _TIME.fullmatch(text)
    if not time:
        raise ValueError(text)
    hours, minutes, seconds, fraction = time.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def excerpt(text: str, search: str) -> str:
    """The surroundings of the first word in a text that a search found, "" if there is none."""
    starts = _starts(search)
    # Most of a text's words are not looked at one by one, because most texts have none of these.
    plain = text.casefold() if text.isascii() else folded(text)
    if not any(start in plain for start in starts):
        return ""
    line = " ".join(text.split())
    hit = next(_hits(line, starts), None)
    if not hit:
        return ""
    begin, end = max(0, hit[0] - BEFORE), min(len(line), hit[0] + AFTER)
    if begin:  # at whole words, where there are spaces between them
        begin = line.find(" ", begin, hit[0]) + 1 or begin
    if end < len(line) and (space := line.rfind(" ", hit[0], end)) > 0:
        end = space
    return f"{'… ' if begin else ''}{line[begin:end]}{' …' if end < len(line) else ''}"


def pieces(text: str, search: str) -> list[tuple[str, bool]]:
    """A text in pieces, and of each whether it is a word that a search found."""
    found = []
    last = 0
    for begin, end in _hits(text, _starts(search)):
        found += [(text[last:begin], False), (text[begin:end], True)]
        last = end
    return [piece for piece in (*found, (text[last:], False)) if piece[0]]


def _starts(search: str) -> tuple[str, ...]:
    """What the words begin with that a search finds, as the catalog compares them."""
    words = folded(search).split()
    return tuple(filter(None, (cut(part) for word in words for part in (word, *parts_of(word)))))


def _hits(text: str, starts: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """The places of the words that a search finds; the catalog's words are the same."""
    if not starts:
        return
    for token in re.finditer(r"\S+", text):
        plain = folded(token[0])
        if SPACELESS.search(plain):
            for begin, end in _hits_inside(token[0], starts):
                yield token.start() + begin, token.start() + end
            continue
        if plain.startswith(starts):
            length = len(token[0].rstrip(_CLOSING)) or len(token[0])
            yield token.start(), token.start() + length
            continue
        for word in re.finditer(r"\w{3,}", token[0]):
            if folded(word[0]).startswith(starts):
                yield token.start() + word.start(), token.start() + word.end()


def _hits_inside(token: str, starts: tuple[str, ...]) -> list[tuple[int, int]]:
    """The places, one after the other, of what a search finds anywhere in a text without spaces."""
    plain, places = "", []
    for at, char in enumerate(token):
        each = folded(char)
        plain += each
        places += [at] * len(each)
    found: list[tuple[int, int]] = []
    for match in re.finditer(
        "|".join(map(re.escape, sorted(starts, key=len, reverse=True))), plain
    ):
        begin, end = places[match.start()], places[match.end() - 1] + 1
        if found and begin <= found[-1][1]:
            begin = found.pop()[0]
        found.append((begin, end))
    return found
