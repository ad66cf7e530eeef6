"""Holds: what is held stays."""

import json
import re
from contextlib import closing

import pytest

from receiver.core.naming import RecordingName
from receiver.errors import NotStored
from receiver.retention.holds import hold, hold_of, holds, release, versions
from receiver.retention.purge import purge
from receiver.storage.paths import numbered
from support.retention import BARE, CALL, attach, in_days, run, told
from support.storages import publish


class TestHold:
    def test_it_holds_every_version_until_it_is_released(self, backend, storage):
        for data in (b"1", b"2", b"3"):
            publish(storage, data, CALL, metadata=told())
        publish(storage, b"neighbour", RecordingName(CALL.folder, "abc@10.0.0.10", "mp3"))
        publish(storage, b"other format", RecordingName(CALL.folder, CALL.call_id, "wav"))
        family = [numbered(str(CALL), number) for number in (0, 1, 2)]
        assert hold(storage, str(CALL), "case 17") == sorted(family)
        files = backend.files()
        assert sorted(path for path in files if path.endswith(".hold")) == sorted(
            f"{path}.hold" for path in family
        )
        kept = json.loads(files[f"{CALL}.hold"])
        assert kept["reason"] == "case 17"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", kept["since"])
        assert {each.path for each in holds(storage)} == set(family)
        assert release(storage, family[2]) == sorted(family)
        assert release(storage, family[2]) == []
        assert list(holds(storage)) == []
        assert sorted(backend.files()) == sorted(path for path in files if path[-5:] != ".hold")

    def test_recording_without_extension_is_held(self, backend, storage):
        publish(storage, b"1", BARE)
        publish(storage, b"2", BARE)
        assert hold(storage, str(BARE)) == [str(BARE), f"{BARE}~1"]
        assert {f"{BARE}~.hold", f"{BARE}~1~.hold"} <= set(backend.files())
        assert purge(storage, None, {"": 1}, in_days(9)).removed == []

    def test_hold_goes_with_a_recording_that_is_superseded(self, storage):
        publish(storage, b"held", CALL)
        hold(storage, str(CALL), "case 17")
        publish(storage, b"new", CALL)
        kept = numbered(str(CALL), 1)
        assert [(each.path, each.reason) for each in holds(storage)] == [(kept, "case 17")]
        report = purge(storage, None, {"": 1}, in_days(9))
        assert ([each.path for each in report.removed], report.held) == ([str(CALL)], [kept])
        with closing(storage.open(kept)) as recording:
            assert recording.file.read() == b"held"

    def test_time_of_a_hold_stays(self, directory):
        publish(directory, b"1", CALL)
        attach(directory, str(CALL), "hold", b'{"since": "2020", "reason": "first"}')
        hold(directory, str(CALL))
        assert hold_of(directory, str(CALL)).reason == "first"
        hold(directory, str(CALL), "second")
        held = hold_of(directory, str(CALL))
        assert (held.since, held.reason) == ("2020", "second")

    @pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b"[" * 100_000])
    def test_hold_that_cannot_be_understood_holds(self, directory, data):
        publish(directory, b"1", CALL)
        attach(directory, str(CALL), "hold", data)
        report = purge(directory, None, {"": 1}, in_days(9))
        assert (report.removed, report.held) == ([], [str(CALL)])

    @pytest.mark.parametrize("method", ["open", "attach"])
    def test_it_holds_what_takes_the_name_meanwhile(self, directory, monkeypatch, method):
        publish(directory, b"old", CALL)
        original, calls = getattr(directory, method), []

        def supersede(*arguments):
            result = original(*arguments)
            if not calls:
                calls.append(arguments)
                publish(directory, b"new", CALL)
            return result

        monkeypatch.setattr(directory, method, supersede)
        assert len(hold(directory, str(CALL))) == 2
        assert len(list(holds(directory))) == 2

    @pytest.mark.parametrize("number", [1, 2])
    def test_versions_are_found_where_numbers_are_missing(self, directory, number):
        for data in (b"1", b"2", b"3"):
            publish(directory, data, CALL)
        directory.delete(numbered(str(CALL), number))
        assert len(versions(directory, str(CALL))) == 2

    @pytest.mark.parametrize("path", ["absent.mp3", f"{CALL}.json", str(CALL)[:-1], CALL.folder])
    def test_what_is_no_recording_cannot_be_held(self, directory, path):
        publish(directory, b"1", CALL, metadata=told())
        for function in (hold, release):
            with pytest.raises(NotStored, match="no recording is stored as"):
                function(directory, path)

    def test_commands(self, backend, storage):
        publish(storage, b"1", CALL)
        publish(storage, b"2", CALL)
        result = run(backend.url, "hold", CALL, "--reason", " case\n17 ")
        assert result.returncode == 0, result
        assert result.stdout.splitlines() == [f"held: {CALL}", f"held: {CALL}"[:-4] + "~1.mp3"]
        lines = run(backend.url, "holds").stdout.splitlines()
        assert len(lines) == 2
        assert all(re.fullmatch(r"20\S+\+00:00 \S+\.mp3: case 17", line) for line in lines)
        result = run(backend.url, "hold", CALL, "--release")
        assert result.stdout.count("released: ") == 2
        assert run(backend.url, "holds").stdout == ""
        assert run(backend.url, "hold", CALL, "--release").stdout == f"not on hold: {CALL}\n"
        result = run(backend.url, "hold", "absent.mp3")
        assert result.returncode == 1
        assert result.stderr.endswith("Error: no recording is stored as absent.mp3\n")
