"""Conditions and ranges: RFC 9110, sections 13 and 14, as far as they concern one recording.

Each test is one sentence of the RFC, or two that need each other. Each runs on every storage, in
every server, and where nginx or Apache send the file.
"""

import email
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

import pytest

from support.clients import Answer, Client
from support.reading import get, new_name, put

AUDIO = bytes(range(256)) * 4
SIZE = len(AUDIO)
MANY = "9" * 20
INVALID = (
    *("x", "", "2026-11-26", "Fri, 32 Jan 2100 00:00:00 GMT"),
    *(f"Fri, 01 Jan {MANY} 00:00:00 GMT", f"Fri, 01 Jan 2100 00:00:00 +{MANY}"),
)


@pytest.fixture(scope="module")
def target(server: Client) -> str:
    name = f"/kzr/call_recording_{new_name()}.mp3"
    put(server, name, AUDIO)
    return name


@pytest.fixture(scope="module")
def etag(server: Client, target: str) -> str:
    return get(server, target).headers["ETag"]


@pytest.fixture(scope="module")
def date(server: Client, target: str) -> str:
    return get(server, target).headers["Last-Modified"]


def moved(date: str, seconds: int) -> str:
    return format_datetime(parsedate_to_datetime(date) + timedelta(seconds=seconds), usegmt=True)


def parts(answer: Answer) -> dict[str, bytes]:
    """What a partial answer holds, by its Content-Range, whether in one part or in several."""
    assert answer.status == 206
    if answer.headers.get_content_type() != "multipart/byteranges":
        return {answer.headers["Content-Range"]: answer.body}
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    found = email.message_from_bytes(head + answer.body).get_payload()
    return {each["Content-Range"]: each.get_payload(decode=True) for each in found}


def check_partial(answer: Answer, start: int, stop: int) -> None:
    assert parts(answer) == {f"bytes {start}-{stop - 1}/{SIZE}": AUDIO[start:stop]}
    assert int(answer.headers["Content-Length"]) == stop - start


def is_whole(answer: Answer) -> bool:
    return (answer.status, answer.body) == (200, AUDIO) and "Content-Range" not in answer.headers


def is_not_modified(answer: Answer) -> bool:
    return (answer.status, answer.body) == (304, b"")


class TestValidators:
    def test_answer_has_a_strong_etag_and_a_date(self, server, target):
        headers = get(server, target).headers
        assert headers["ETag"].startswith('"') and headers["ETag"].endswith('"')
        assert parsedate_to_datetime(headers["Last-Modified"]) <= parsedate_to_datetime(
            headers["Date"]
        )

    def test_head_answers_as_get_does(self, server, target):
        """Section 9.3.2; also 13.1.2: HEAD is conditional in the same way."""
        ours, theirs = (get(server, target, method).headers for method in ("GET", "HEAD"))
        for name in ("ETag", "Last-Modified", "Content-Type", "Cache-Control", "Content-Length"):
            assert theirs[name] == ours[name], name

    def test_recordings_of_one_name_never_share_an_etag(self, server):
        """Section 8.8.1: also those of one second and of one size."""
        target = f"/kzr/call_recording_{new_name()}.mp3"
        found = set()
        for number in range(4):
            put(server, target, b"audio%d" % number)
            answer = get(server, target)
            assert answer.body == b"audio%d" % number
            found.add(answer.headers["ETag"])
        assert len(found) == 4

    def test_caches_are_private_and_ask_each_time(self, server, target):
        found = get(server, target).headers["Cache-Control"].replace(" ", "").split(",")
        assert sorted(found) == ["no-cache", "private"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
class TestIfMatch:
    """Section 13.1.1."""

    def test_star_is_true_where_there_is_a_recording(self, server, target, method):
        assert get(server, target, method, If_Match="*").status == 200

    def test_one_of_a_list_is_enough(self, server, target, etag, method):
        assert get(server, target, method, If_Match=f'"x", {etag} ,"y"').status == 200

    def test_no_match_is_412_and_nothing_is_sent(self, server, target, method):
        answer = get(server, target, method, If_Match='"x"')
        assert answer.status == 412 and AUDIO not in answer.body

    def test_weak_tags_never_match(self, server, target, etag, method):
        assert get(server, target, method, If_Match=f"W/{etag}").status == 412

    def test_condition_counts_only_where_there_is_a_recording(self, server, method):
        """Section 13.2.1."""
        for headers in ({"If_Match": "*"}, {"If_None_Match": "*"}):
            assert get(server, f"/kzr/{new_name()}.mp3", method, **headers).status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
class TestIfNoneMatch:
    """Section 13.1.2."""

    def test_star_is_false_where_there_is_a_recording(self, server, target, method):
        assert is_not_modified(get(server, target, method, If_None_Match="*"))

    def test_matching_tag_is_304(self, server, target, etag, method):
        assert is_not_modified(get(server, target, method, If_None_Match=etag))

    def test_one_of_a_list_is_enough(self, server, target, etag, method):
        assert is_not_modified(get(server, target, method, If_None_Match=f'"x",,{etag}, "y"'))

    def test_weak_tags_match_too(self, server, target, etag, method):
        assert is_not_modified(get(server, target, method, If_None_Match=f"W/{etag}"))

    def test_others_get_the_recording(self, server, target, etag, method):
        for other in ('"x"', 'W/"x", "y"', f'"{etag[1:-2]}"', '""'):
            assert get(server, target, method, If_None_Match=other).status == 200

    def test_304_has_what_a_cache_updates(self, server, target, etag, method):
        """Section 15.4.5."""
        whole = get(server, target)
        headers = get(server, target, method, If_None_Match=etag).headers
        assert headers["ETag"] == etag and headers["Date"]
        assert headers["Cache-Control"] == whole.headers["Cache-Control"]
        assert headers.get("Content-Length", str(SIZE)) == str(SIZE)

    def test_another_recording_of_the_name_is_no_match(self, server, method):
        name = f"/kzr/call_recording_{new_name()}.mp3"
        put(server, name, b"one")
        old = get(server, name).headers["ETag"]
        put(server, name, b"two")
        assert get(server, name, method, If_None_Match=old).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
class TestDates:
    """Sections 13.1.3 and 13.1.4."""

    def test_not_modified_since(self, server, target, date, method):
        for since in (date, moved(date, 1), moved(date, 10**9)):
            assert is_not_modified(get(server, target, method, If_Modified_Since=since))

    def test_modified_since(self, server, target, date, method):
        assert get(server, target, method, If_Modified_Since=moved(date, -1)).status == 200

    def test_obsolete_formats_of_dates_count(self, server, target, method):
        """Section 5.6.7."""
        for since in ("Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"):
            assert get(server, target, method, If_Modified_Since=since).status == 200
            assert get(server, target, method, If_Unmodified_Since=since).status == 412

    @pytest.mark.parametrize("since", INVALID)
    def test_invalid_date_is_ignored(self, server, target, method, since):
        assert get(server, target, method, If_Modified_Since=since).status == 200
        assert get(server, target, method, If_Unmodified_Since=since).status == 200

    def test_date_is_ignored_beside_if_none_match(self, server, target, date, method):
        asked = {"If_None_Match": '"x"', "If_Modified_Since": date}
        assert get(server, target, method, **asked).status == 200

    def test_unmodified_since(self, server, target, date, method):
        for since in (date, moved(date, 1)):
            assert get(server, target, method, If_Unmodified_Since=since).status == 200
        assert get(server, target, method, If_Unmodified_Since=moved(date, -1)).status == 412

    def test_date_is_ignored_beside_if_match(self, server, target, etag, date, method):
        asked = {"If_Match": etag, "If_Unmodified_Since": moved(date, -1)}
        assert get(server, target, method, **asked).status == 200


class TestOrder:
    """Section 13.2.2."""

    def test_if_match_comes_before_if_none_match(self, server, target, etag):
        assert get(server, target, If_Match='"x"', If_None_Match=etag).status == 412
        assert get(server, target, If_Match=etag, If_None_Match=etag).status == 304

    def test_unmodified_since_comes_before_if_none_match(self, server, target, etag, date):
        asked = {"If_Unmodified_Since": moved(date, -1), "If_None_Match": etag}
        assert get(server, target, **asked).status == 412

    @pytest.mark.parametrize("range_", ["bytes=0-3", "bytes=5000-"])
    def test_ranges_come_last(self, server, target, etag, date, range_):
        """Section 14.2."""
        assert is_not_modified(get(server, target, Range=range_, If_None_Match=etag))
        assert is_not_modified(get(server, target, Range=range_, If_Modified_Since=date))
        assert get(server, target, Range=range_, If_Match='"x"').status == 412

    def test_range_of_a_condition_that_is_true(self, server, target, etag, date):
        for asked in (
            {"If_Match": etag},
            {"If_None_Match": '"x"'},
            {"If_Unmodified_Since": date},
            {"If_Modified_Since": moved(date, -1)},
        ):
            check_partial(get(server, target, Range="bytes=2-3", **asked), 2, 4)


class TestIfRange:
    """Section 13.1.5."""

    def test_it_is_ignored_without_a_range(self, server, target):
        assert is_whole(get(server, target, If_Range='"x"'))

    def test_same_recording_gives_the_range(self, server, target, etag):
        check_partial(get(server, target, Range="bytes=5-", If_Range=etag), 5, SIZE)

    def test_another_or_a_weak_tag_gives_the_whole(self, server, target, etag):
        for other in ('"x"', f"W/{etag}", etag[1:-1], "x"):
            assert is_whole(get(server, target, Range="bytes=5-", If_Range=other))

    def test_date_has_to_be_the_very_same(self, server, target, date):
        check_partial(get(server, target, Range="bytes=5-", If_Range=date), 5, SIZE)
        for other in (moved(date, 1), moved(date, -1), *INVALID[-2:]):
            assert is_whole(get(server, target, Range="bytes=5-", If_Range=other))

    def test_date_that_two_recordings_may_share_gives_the_whole(self, server):
        name = f"/kzr/call_recording_{new_name()}.mp3"
        put(server, name, b"one")
        put(server, name, b"two")
        date = get(server, name).headers["Last-Modified"]
        answer = get(server, name, Range="bytes=1-", If_Range=date)
        assert (answer.status, answer.body) == (200, b"two")

    def test_recording_that_took_the_name_is_sent_whole(self, server):
        name = f"/kzr/call_recording_{new_name()}.mp3"
        put(server, name, b"first")
        old = get(server, name).headers["ETag"]
        put(server, name, b"other")
        answer = get(server, name, Range="bytes=1-", If_Range=old)
        assert (answer.status, answer.body) == (200, b"other")

    def test_range_beyond_the_end_of_another_recording_is_the_whole(self, server, target):
        assert is_whole(get(server, target, Range="bytes=5000-", If_Range='"x"'))


class TestRange:
    """Sections 14.1.2, 14.2 and 14.4."""

    @pytest.mark.parametrize(
        ("asked", "start", "stop"),
        [
            ("0-0", 0, 1),
            ("0-499", 0, 500),
            ("500-999", 500, 1000),
            ("1000-", 1000, SIZE),
            ("-500", SIZE - 500, SIZE),
            ("-1", SIZE - 1, SIZE),
            ("0-", 0, SIZE),
            ("00-007", 0, 8),
            (f"{SIZE - 1}-{SIZE - 1}", SIZE - 1, SIZE),
        ],
    )
    def test_range(self, server, target, asked, start, stop):
        check_partial(get(server, target, Range=f"bytes={asked}"), start, stop)

    @pytest.mark.parametrize("last", [SIZE, 5000, 10**17])
    def test_end_beyond_the_last_byte_means_the_last(self, server, target, last):
        check_partial(get(server, target, Range=f"bytes=10-{last}"), 10, SIZE)

    @pytest.mark.parametrize("length", [SIZE, SIZE + 1, 99999])
    def test_suffix_longer_than_the_whole_is_the_whole(self, server, target, length):
        check_partial(get(server, target, Range=f"bytes=-{length}"), 0, SIZE)

    @pytest.mark.parametrize("asked", [f"{SIZE}-", "5000-6000", "-0"])
    def test_range_that_is_not_there_is_416_with_the_size(self, server, target, asked):
        """Section 15.5.17."""
        answer = get(server, target, Range=f"bytes={asked}")
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")

    @pytest.mark.parametrize("asked", ["items=0-5", "seconds=0-5", "x", "bytes"])
    def test_unknown_unit_is_ignored(self, server, target, asked):
        assert is_whole(get(server, target, Range=asked))

    @pytest.mark.parametrize("asked", ["5-2", "a-b", "1", "-", "--5", "1-2-3", "0x1-5", "-5-"])
    def test_invalid_range_is_ignored_or_refused(self, server, target, asked):
        answer = get(server, target, Range=f"bytes={asked}")
        assert is_whole(answer) or answer.status == 416

    @pytest.mark.parametrize("asked", ["0-1,5-6", "0-1, -2", "0-9,5-14", "0-0,0-0,0-0"])
    def test_several_ranges_give_each_or_the_whole(self, server, target, asked):
        answer = get(server, target, Range=f"bytes={asked}")
        if answer.status == 200:
            assert is_whole(answer)
            return
        for range_, data in parts(answer).items():
            first, _, last = range_.removeprefix("bytes ").partition("/")[0].partition("-")
            assert data == AUDIO[int(first) : int(last) + 1]

    def test_many_small_ranges_cost_no_more_than_the_whole(self, server, target):
        """Section 14.2: a server may ignore or reject those."""
        asked = ",".join(f"{n}-{n}" for n in range(0, 1000, 2))
        answer = get(server, target, Range=f"bytes={asked}")
        assert answer.status in (200, 206, 416) and len(answer.body) < 100 * 1024

    def test_range_is_for_get_only(self, server, target):
        answer = get(server, target, "HEAD", Range="bytes=0-3")
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(SIZE))

    def test_answers_say_that_ranges_are_taken(self, server, target):
        """Section 14.3."""
        assert get(server, target).headers["Accept-Ranges"] == "bytes"

    def test_part_has_the_headers_of_the_whole(self, server, target):
        """Section 15.3.7."""
        whole, part = get(server, target), get(server, target, Range="bytes=0-3")
        for name in ("ETag", "Last-Modified", "Cache-Control", "Content-Type"):
            assert part.headers[name] == whole.headers[name], name
        assert part.headers["Date"]
        assert part.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize("asked", ["bytes=0-", "bytes=-5", "bytes=3-4"])
    def test_empty_recording_has_no_ranges(self, server, asked):
        name = f"/kzr/call_recording_{new_name()}.mp3"
        put(server, name, b"")
        answer = get(server, name, Range=asked)
        assert answer.status == 416 or (answer.status, answer.body) == (200, b"")
