"""Measures whether anything costs more than its input is long.

Every regular expression that a stranger's text reaches, and every parser around them, is given the
worst texts that are known for it, each of them again and again with twice as much. What is told is
by how much the time grows when the input is doubled: the median over the last doublings. Linear is
2, quadratic is 4. First comes a control: an expression that is quadratic has to be seen.

    python tests/proof/doubling.py            about a minute
"""

import io
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

# The tests and the project, which need not be the one that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from report import tell
from werkzeug.datastructures import Authorization, MIMEAccept
from werkzeug.http import parse_accept_header, parse_date, parse_etags

from receiver.access import address_of
from receiver.catalog.durations import measured_duration
from receiver.catalog.words import words_in
from receiver.core.naming import RecordingName
from receiver.errors import ReceiverError
from receiver.numbers import digits_of
from receiver.page.transcript import excerpt, parse_vtt, pieces
from receiver.senders import metadata
from support.expressions import SEEN, Worst, expressions
from support.forms import B, read

ENOUGH = 0.02  # seconds that the longest input takes
MOST = 4 * 1024 * 1024  # characters of an input
WORST = 3.0  # times as long, with twice as much: between linear and quadratic

Use = Callable[[str], object]
PART = f'\r\n--{B}\r\ncontent-disposition: form-data; name="a"; filename="b"\r\n\r\n'
FIELD = f'\r\n--{B}\r\ncontent-disposition: form-data; name="a"\r\n\r\n'


def form(text: str) -> object:
    return read(text.encode("latin-1"))


def media(text: str) -> object:
    data = text.encode("latin-1")
    return measured_duration(io.BytesIO(data), len(data))


def accept(text: str) -> object:
    return parse_accept_header(text, MIMEAccept).best_match(["text/html", "text/csv"])


def vtt(text: str) -> object:
    return parse_vtt(b"WEBVTT\n\n00:00.000 --> 00:01.000\n" + text.encode())


PARSERS: dict[str, tuple[Use, tuple[tuple[str, str, str], ...]]] = {
    "query": (metadata.from_query, (("", "&", ""), ("", "a=%ff&", ""), ("name=a", "+", ""))),
    "JSON": (
        lambda text: metadata.from_json(text.encode()),
        (
            ('{"a": "', "1 ", '"}'),
            ('{"a": [', "1,", "1]}"),
            ('{"a": ', "9", "}"),
            ("", '{"a":', ""),
        ),
    ),
    "form": (
        form,
        (
            ("", "\r\n", ""),
            (f"\r\n--{B}\r\n", "a: b\r\n", ""),
            (f"\r\n--{B}\r\na: b", "\r\n c", ""),
            ("", FIELD, ""),
            (PART, "\r", ""),
            (PART, f"\r\n--{B}x", ""),
            (PART, f"\r\n--{B}" + " " * 300, ""),
            (f"{PART}\r\n--{B}", " ", ""),
            (f"{PART}\r\n--{B}--", "\r\n", ""),
        ),
    ),
    "name": (
        lambda text: RecordingName.parse(f"/call_recording_{text}"),
        (("", "%2F", ""), ("", ".mp3", ""), ("", "~", ".mp3"), ("", "/c", "")),
    ),
    "number": (digits_of, (("", "%25", ""), ("", "(", "x"), ("", "sip:", ""), ("", "<", ""))),
    "address": (address_of, (("", "1:", ""), ("", "[", "]"), ("", "1", ".1"))),
    "credentials": (
        Authorization.from_header,
        (("Basic ", "AAAA", ""), ("Digest ", 'a="b",', ""), ("Digest ", '"', ""), ("x ", " ", "")),
    ),
    "If-None-Match": (parse_etags, (("", '"a" ', ""), ("a", " ", "b"), ("", '"', ""))),
    "If-Modified-Since": (parse_date, (("", "(", ""), ("", "1 ", ""), ("Thu, 1 Jan ", "9", ""))),
    "Accept": (
        accept,
        (("", "a/b,", ""), ("a/b", ";a=b", ""), ('a/b;a="', '\\"', ""), ("", ",", "")),
    ),
    "WebVTT": (vtt, (("", "<v ", ""), ("", "&amp", ""), ("", "\n\n", ""), ("", "<", ""))),
    "words": (lambda text: list(words_in(text)), (("", "a-", ""), ("", "\u3042", ""))),
    "excerpt": (lambda text: excerpt(text, "zz"), (("", "z ", "zz"), ("", "\u3042", "zz"))),
    "pieces": (lambda text: pieces(text, "zz ab"), (("", "zz", ""), ("", "\u3042zz", ""))),
    "media": (
        media,
        (
            ("", "\xff\xfa", ""),
            ("RIFF\0\0\0\0WAVE", "x" * 8, ""),
            ("OggS", "\0", ""),
            ("fLaC", "\0", ""),
            ("\0\0\0\x20ftypM4A ", "\0\0\0\x08free", ""),
            ("ID3\x04\0\0\0\0\x7f\x7f", "\0", ""),
        ),
    ),
}


def used(pattern: re.Pattern, use: str) -> Use:
    if use == "search":  # everywhere, as what replaces does
        return lambda text: sum(1 for _ in pattern.finditer(text))
    return getattr(pattern, use)


def growth(use: Use, text: tuple[str, str, str], convert: Callable = str) -> float:
    """By how much the CPU's time grows with twice the input; what looks slow is looked at again."""
    found = measured(use, text, convert)
    for _ in range(2):
        found = min(found, measured(use, text, convert)) if found > WORST else found
    return found


def measured(use: Use, text: tuple[str, str, str], convert: Callable) -> float:
    """The median of three doublings."""
    before, repeated, after = text
    times, count = [], 64
    while len(times) < 4 or times[-1] < ENOUGH and count * len(repeated) <= MOST:
        given = convert(before + repeated * count + after)
        tries = []
        for _ in range(5):
            began = time.thread_time()
            with suppress(ReceiverError, ValueError):
                use(given)
            tries.append(time.thread_time() - began)
        times.append(min(tries))
        count *= 2
    last = times[-4:]
    return statistics.median(b / max(a, 1e-7) for a, b in zip(last, last[1:], strict=False))


def patterns() -> Iterator[tuple[str, float]]:
    for each in expressions():
        if isinstance(worst := SEEN[each.key], Worst):
            pattern = each.compiled()
            convert = str.encode if isinstance(pattern.pattern, bytes) else str
            for text in worst.texts:
                yield f"{each.key} {text}", growth(used(pattern, worst.use), text, convert)


def parsers() -> Iterator[tuple[str, float]]:
    for name, (use, texts) in PARSERS.items():
        for text in texts:
            shown = tuple(part[:20] for part in text)
            yield f"{name} {shown}", growth(use, text)


def report(tried: str, found: Iterator[tuple[str, float]], control: float) -> bool:
    rows = []
    for name, times in found:
        print(f"  {times:.2f}  {name}", file=sys.stderr, flush=True)
        rows.append((times, name))
    slow = [row for row in rows if row[0] > WORST]
    median, largest = statistics.median(row[0] for row in rows), max(rows)
    figures = f"{len(rows)} texts: with twice as much, a median of {median:.2f} times as long, at "
    figures += f"most {largest[0]:.2f} ({largest[1]!r}); one that is quadratic shows {control:.2f}"
    return tell(tried, figures.replace("|", "\\|"), not slow and control > WORST)


def main() -> int:
    control = growth(re.compile("[ (]*[0-9 ()]*").fullmatch, ("", "(", "x"))
    passed = [
        report("regular expressions that strangers reach", patterns(), control),
        report("parsers that strangers reach", parsers(), control),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
