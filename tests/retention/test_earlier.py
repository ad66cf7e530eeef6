"""Names that earlier releases stored are read, listed, held, purged, copied, erased as before.

They stored `CALL` for what is `CALL~` today, and gave the older ones of `X.WAV` the names
`X.WAV~1`, for what is `X~1.WAV`.
"""

import json
import time
from contextlib import closing

import pytest

from receiver.core.naming import RecordingName
from receiver.parts import Storage
from receiver.retention.erasure import Wanted, erase, find
from receiver.retention.holds import hold, holds
from receiver.retention.purge import purge
from receiver.storage import open_storage
from receiver.storage.copying import copy_all
from support.retention import attach, in_days
from support.storages import publish

STORED = {
    "ACCOUNT/DOC/NAME": b"a plan's",
    "abc.mp3": b"3",
    "abc~1.mp3": b"1",
    "abc~2.mp3": b"2",
    "bare": b"b2",
    "bare~1": b"b1",
    "X.WAV": b"w2",
    "X.WAV~1": b"w1",
}


@pytest.fixture
def earlier(storage) -> Storage:
    for path, data in STORED.items():
        with storage.incoming() as file:
            file.write(data)
            file.flush()
            storage.put(path, file, time.time() - 60)
    for path in ("abc~1.mp3", "bare", "X.WAV~1"):
        attach(storage, path, "json", json.dumps({"from": "+15551234567"}).encode())
    return storage


def contents(storage: Storage) -> dict[str, bytes]:
    found = {}
    for listed in storage.scan():
        with closing(storage.open(listed.path)) as recording:
            found[listed.path] = recording.read(100)
    return found


def test_they_are_listed_and_read(earlier):
    assert contents(earlier) == STORED


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (RecordingName("ACCOUNT/DOC", "NAME", ""), "ACCOUNT/DOC/NAME"),
        (RecordingName("", "bare", ""), "bare"),
        (RecordingName("", "X", "WAV"), "X.WAV"),
        (RecordingName("", "abc", "mp3"), "abc.mp3"),
    ],
)
def test_a_retry_is_answered_as_identical(earlier, name, path):
    result = publish(earlier, STORED[path], name)
    assert (result.outcome, result.path) == ("identical", path)
    assert contents(earlier) == STORED


@pytest.mark.parametrize("name", ["bare", "X.WAV~1", "abc.mp3"])
def test_a_hold_is_on_every_version(earlier, name):
    family = [path for path in STORED if path[0] == name[0]]
    assert hold(earlier, name) == sorted(family)
    assert sorted(each.path for each in holds(earlier)) == sorted(family)
    report = purge(earlier, None, {"": 1}, in_days(9))
    assert sorted(report.held) == sorted(family)
    assert contents(earlier) == {path: STORED[path] for path in family}


def test_erasure_finds_whole_families(earlier):
    wanted = Wanted(number="15551234567")
    found = find(earlier, wanted)
    assert {match.path for match in found.matches} == {
        path for path in ("abc~1.mp3", "bare", "bare~1", "X.WAV~1")
    }
    assert erase(earlier, None, None, wanted, found, lambda receipt: None) == []
    assert set(contents(earlier)) == {"ACCOUNT/DOC/NAME", "abc.mp3", "abc~2.mp3", "X.WAV"}


def test_a_copy_has_them_under_the_same_names(earlier, tmp_path):
    copied = open_storage(str(tmp_path / "copied"))
    report = copy_all(earlier, copied)
    assert (report.failed, report.copied) == ([], len(STORED))
    assert contents(copied) == STORED
