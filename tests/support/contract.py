"""The contract that every storage keeps."""

import multiprocessing
import os
import threading
import time
from collections import Counter
from contextlib import closing, suppress

import pytest

from receiver.core.naming import RecordingName, sidecar
from receiver.errors import Held, NameExists, NameTaken, NotStored, StorageFailed, Superseded
from receiver.parts import Outcome, Storage
from receiver.reading.choice import milliseconds, open_received
from receiver.storage.base import open_named
from receiver.storage.paths import numbered
from support.storages import NAME, publish


class StorageContract:
    """What `Storage` promises; mixed into each back end's tests, which give `open` and `read`."""

    def open(self) -> Storage:
        raise NotImplementedError

    def read(self) -> dict[str, bytes]:
        raise NotImplementedError

    @pytest.fixture
    def storage(self, tmp_path) -> Storage:
        self.tmp_path = tmp_path
        return self.open()

    def test_published_recording_is_there(self, storage):
        stored = publish(storage, b"audio")
        assert (stored.outcome, stored.path) == (Outcome.CREATED, "ACCOUNT/USER/abc@10.0.0.1.mp3")
        assert self.read() == {"ACCOUNT/USER/abc@10.0.0.1.mp3": b"audio"}

    def test_etag_that_is_told_is_the_recordings(self, storage):
        for data in (b"one", b"two", b"two"):
            assert publish(storage, data).etag == self.etag(storage)

    def test_recording_keeps_its_etag_when_it_is_superseded(self, storage):
        etags = [publish(storage, data).etag for data in (b"one", b"two", b"six")]
        again = [publish(storage, data).etag for data in (b"one", b"two", b"six")]
        assert again == etags
        assert len({*etags}) == 3
        found = set()
        for path in storage.versions(str(NAME)):
            with closing(storage.open(path)) as recording:
                found.add((recording.etag, recording.file.read()))
        assert found == {*zip(etags, (b"one", b"two", b"six"), strict=True)}

    def test_recording_keeps_its_time_when_it_is_superseded(self, storage):
        """By which a page that is older than that still finds it."""
        path = publish(storage, b"one").path
        with closing(storage.open(path)) as recording:
            received = milliseconds(recording.modified)
        for data in (b"two", b"three"):
            time.sleep(0.01)  # the clock goes on
            publish(storage, data)
            found, recording = open_received(storage, path, received)
            with closing(recording):
                assert (found, recording.read(10)) == (numbered(path, 1), b"one")
        with pytest.raises(NotStored):
            open_received(storage, path, received - 1)

    def test_recordings_of_one_name_have_etags_of_their_own_though_they_came_at_once(self, storage):
        etags = set()
        for data in (b"one", b"two", b"six", b"ten"):
            with storage.incoming() as file:
                file.write(data)
                file.flush()
                os.utime(file.fileno(), ns=(1_800_000_000_123_456_789,) * 2)
                etags.add(storage.publish(file, NAME).etag)
        assert len(etags) == 4
        found = set()
        for path in storage.versions(str(NAME)):
            with closing(storage.open(path)) as recording:
                found.add(recording.etag)
        assert found == etags

    def test_what_exists_is_told_where_it_holds_the_same(self, storage):
        etags = [publish(storage, data).etag for data in (b"one", b"two")]
        for data, etag in zip((b"one", b"two", b"six"), (*etags, ""), strict=True):
            with pytest.raises(NameExists) as error:
                publish(storage, data, only_new=True)
            assert (error.value.path, error.value.etag) == (str(NAME), etag)

    def test_incoming_file_that_is_not_published_vanishes(self, storage):
        with pytest.raises(KeyError), storage.incoming() as file:
            file.write(b"audio")
            raise KeyError
        assert self.read() == {}

    def test_same_bytes_are_identical(self, storage):
        publish(storage, b"one")
        assert publish(storage, b"one").outcome is Outcome.IDENTICAL
        assert list(self.read().values()) == [b"one"]

    def test_other_bytes_supersede_and_are_all_kept(self, storage):
        for data in (b"one", b"two", b"", b"three"):
            stored = publish(storage, data)
        assert (stored.outcome, stored.kept_as) == (Outcome.SUPERSEDED, "abc@10.0.0.1~3.mp3")
        assert self.read() == {
            "ACCOUNT/USER/abc@10.0.0.1.mp3": b"three",
            "ACCOUNT/USER/abc@10.0.0.1~1.mp3": b"one",
            "ACCOUNT/USER/abc@10.0.0.1~2.mp3": b"two",
            "ACCOUNT/USER/abc@10.0.0.1~3.mp3": b"",
        }

    def test_bytes_of_an_older_recording_are_a_late_retry(self, storage):
        for data in (b"one", b"two"):
            publish(storage, data)
        assert publish(storage, b"one").outcome is Outcome.IDENTICAL
        assert len(self.read()) == 2

    def test_metadata_lies_beside_its_recording_and_goes_with_it(self, storage):
        for number in (1, 2, 3):
            publish(storage, b"%d" % number, metadata=b"{%d}" % number)
        publish(storage, b"4")
        path = "ACCOUNT/USER/abc@10.0.0.1"
        assert self.read() == {
            f"{path}.mp3": b"4",
            f"{path}~1.mp3": b"1",
            f"{path}~1.mp3.json": b"{1}",
            f"{path}~2.mp3": b"2",
            f"{path}~2.mp3.json": b"{2}",
            f"{path}~3.mp3": b"3",
            f"{path}~3.mp3.json": b"{3}",
        }

    def test_retry_keeps_the_metadata_that_is_there(self, storage):
        publish(storage, b"one", metadata=b"{1}")
        publish(storage, b"one", metadata=b"{2}")
        assert sorted(self.read().values()) == [b"one", b"{1}"]

    def test_only_new_leaves_what_is_there(self, storage):
        publish(storage, b"one", only_new=True)
        for data in (b"one", b"two"):
            with pytest.raises(NameExists):
                publish(storage, data, only_new=True)
        assert list(self.read().values()) == [b"one"]

    def test_recording_is_opened_with_what_an_answer_needs(self, storage):
        publish(storage, b"audio", metadata=b"{}")
        with closing(storage.open(str(NAME))) as recording:
            assert recording.file.seek(2) == 2
            assert recording.file.read() == b"dio"
            assert recording.size == 5
            assert abs(recording.modified - time.time()) < 60
            first = recording.etag
        publish(storage, b"other")
        with closing(storage.open(str(NAME))) as recording:
            assert recording.etag != first

    @pytest.mark.parametrize(
        "name",
        [
            RecordingName("", "x", "mp3"),
            RecordingName("A/B", "x", ""),
            RecordingName("", "ACCOUNT", ""),
            RecordingName("ACCOUNT/USER/abc@10.0.0.1.mp3", "x", "mp3"),
        ],
    )
    def test_absent_recording_cannot_be_opened(self, storage, name):
        publish(storage, b"audio")
        for open_ in (storage.open, storage.open_described):
            with pytest.raises(NotStored):
                open_(str(name))
        assert storage.versions(str(name)) == []

    def test_recording_is_opened_with_its_own_metadata(self, storage):
        for metadata in (b"", b"{1}", b"{2}", b""):
            publish(storage, b"audio %s" % metadata + bytes(len(self.read())), metadata=metadata)
        found = {}
        for path in storage.versions(str(NAME)):
            recording, about = storage.open_described(path)
            with closing(recording):
                found[path] = recording.read(9).rstrip(b"\0"), about
                with closing(storage.open(path)) as same:
                    assert recording.etag == same.etag
        path = str(NAME)
        assert found == {
            path: (b"audio ", b""),
            numbered(path, 3): (b"audio {2}", b"{2}"),
            numbered(path, 2): (b"audio {1}", b"{1}"),
            numbered(path, 1): (b"audio ", b""),
        }

    def test_metadata_are_of_the_recording_while_it_is_superseded(self, storage):
        """Each recording's bytes begin with its metadata."""
        ends = threading.Event()
        wrong = []

        def look() -> None:
            while not ends.is_set():
                with suppress(NotStored):
                    recording, about = storage.open_described(str(NAME))
                    with closing(recording), suppress(Superseded):
                        if about is not None and not recording.read(100).startswith(about + b" "):
                            wrong.append(about)

        readers = [threading.Thread(target=look) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(30):
            about = b"{%d}" % number if number % 3 else b""
            publish(storage, about + b" %d" % number, metadata=about)
        ends.set()
        for reader in readers:
            reader.join()
        assert wrong == []

    def test_large_recordings_are_told_apart_by_their_last_byte(self, storage):
        start = bytes(3_000_000)
        assert publish(storage, start + b"a").outcome is Outcome.CREATED
        assert publish(storage, start + b"b").outcome is Outcome.SUPERSEDED
        assert publish(storage, start + b"b").outcome is Outcome.IDENTICAL

    def test_scan_lists_recordings_and_nothing_else(self, storage):
        bare, json_ = RecordingName("", "bare", ""), RecordingName("A", "fields", "json")
        for name in (NAME, NAME, bare, json_):
            publish(storage, name.call_id.encode() + os.urandom(4), name, metadata=b"{}")
        found = {each.path: each for each in storage.scan()}
        paths = [str(NAME), numbered(str(NAME), 1), "bare~", "A/fields.json"]
        assert sorted(found) == sorted(paths)
        assert found["bare~"].size == 8
        assert abs(found["bare~"].modified - time.time()) < 60

    @pytest.mark.parametrize(
        ("prefix", "found"),
        [
            ("ACCOUNT/", ["ACCOUNT/USER/abc@10.0.0.1.mp3"]),
            ("ACCOUNT/USER/abc", ["ACCOUNT/USER/abc@10.0.0.1.mp3"]),
            ("ACC", ["ACCOUNT/USER/abc@10.0.0.1.mp3", "ACCOUNT2/x.mp3"]),
            ("ACCOUNT/OTHER/", []),
            ("abc", []),
        ],
    )
    def test_scan_takes_a_prefix(self, storage, prefix, found):
        publish(storage, b"audio")
        publish(storage, b"audio", RecordingName("ACCOUNT2", "x", "mp3"))
        assert sorted(each.path for each in storage.scan(prefix)) == found

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("ACCOUNT", "ACCOUNT/USER/call_recording_x.mp3"),
            ("call_recording_2026.", "2026/11/call_recording_x.mp3"),
            ("ACCOUNT/DOC", "ACCOUNT/DOC/NAME"),
            ("X.mp3", "X.mp3/call_recording_x.mp3"),
            ("X.WAV", "X.WAV/x"),
            ("X.mp3", "X.mp3.json/x.mp3"),
            ("X", "X~.json/x.mp3"),
            ("X", "X~/X~~.json/x.mp3"),
            ("X", "X/X~~1/x.mp3"),
            ("X.mp3", "X~1.mp3/x.mp3"),
            ("call_recording_X.mp3.", "X.mp3/x.mp3"),
        ],
    )
    def test_recording_and_folder_never_want_the_same_name(self, storage, one, other):
        names = [RecordingName.parse(one), RecordingName.parse(other)]
        for order in (names, names[::-1]):
            for name in order:
                for data in (b"1", b"2"):
                    publish(storage, str(name).encode() + data, name, metadata=b"{%s}" % data)
        for name in names:
            with closing(storage.open(str(name))) as recording:
                assert recording.read(1000) == str(name).encode() + b"2"
        assert len(list(storage.scan())) == 4
        assert len(self.read()) == 8

    def test_recording_that_an_earlier_release_stored_is_superseded_and_retried(self, storage):
        for path, name in (
            ("A/bare", RecordingName("A", "bare", "")),
            ("example.com.au/x.mp3", RecordingName.parse("example.com.au/x.mp3")),
        ):
            with storage.incoming() as file:
                file.write(b"old")
                file.flush()
                storage.put(path, file, 1_700_000_000)
            assert publish(storage, b"old", name).outcome is Outcome.IDENTICAL
            with pytest.raises(NameExists):
                publish(storage, b"new", name, only_new=True)
            stored = publish(storage, b"new", name, metadata=b"{}")
            assert (stored.outcome, stored.path) == (Outcome.SUPERSEDED, path)
            kept = numbered(path, 1)
            about = sidecar(path, "json")
            files = {each: data for each, data in self.read().items() if each[:2] == path[:2]}
            assert files == {path: b"new", about: b"{}", kept: b"old"}
            assert publish(storage, b"old", name).outcome is Outcome.IDENTICAL
            assert {each.path for each in storage.scan(path[:2])} == {path, kept}
            found, recording = open_named(storage, name)
            recording.close()
            assert found == path
            storage.delete(path)
            storage.delete(kept)
            assert publish(storage, b"again", name).path == str(name)

    def test_what_is_put_is_at_that_path_and_never_overwritten(self, storage):
        path = numbered(str(NAME), 7)
        with storage.incoming() as file:
            file.write(b"audio")
            file.flush()
            assert storage.put(path, file, 1_700_000_000) is Outcome.CREATED
            assert storage.put(path, file, 1_700_000_000) is Outcome.IDENTICAL
        with storage.incoming() as file, pytest.raises(NameTaken):
            file.write(b"other")
            file.flush()
            storage.put(path, file, 1_700_000_000)
        assert self.read() == {path: b"audio"}

    @pytest.mark.parametrize("path", ["../x.mp3", "A/../../x.mp3"])
    def test_nothing_is_put_outside_the_storage(self, storage, path):
        with storage.incoming() as file, pytest.raises(StorageFailed):
            storage.put(path, file, 0)
        assert self.read() == {}

    def test_delete_removes_a_recording_and_what_lies_beside_it(self, storage):
        for number in (1, 2):
            publish(storage, b"%d" % number, metadata=b"{%d}" % number)
        storage.delete(str(NAME))
        kept = numbered(str(NAME), 1)
        assert self.read() == {kept: b"1", f"{kept}.json": b"{1}"}
        with pytest.raises(NotStored):
            storage.open(str(NAME))
        for path in (str(NAME), "x.mp3", "A/x.mp3"):
            with pytest.raises(NotStored):
                storage.delete(path)

    def test_what_is_attached_lies_beside_its_recording(self, storage):
        publish(storage, b"audio", metadata=b"{}")
        etag = self.etag(storage)
        for data in (b"WEBVTT 1", b"WEBVTT 2"):
            storage.attach(str(NAME), "vtt", data, etag)
        storage.attach(str(NAME), "json", b"{1}", etag)
        path = str(NAME)
        assert self.read() == {path: b"audio", f"{path}.json": b"{1}", f"{path}.vtt": b"WEBVTT 2"}
        assert self.etag(storage) == etag
        with closing(storage.open(f"{path}.vtt")) as blob:
            assert blob.file.read() == b"WEBVTT 2"
        for _ in range(2):
            storage.attach(path, "vtt", b"", etag)  # which removes it
        assert self.read() == {path: b"audio", f"{path}.json": b"{1}"}

    def test_nothing_is_attached_to_another_recording(self, storage):
        publish(storage, b"old")
        etag = self.etag(storage)
        publish(storage, b"new")
        for path in (str(NAME), "absent.mp3", "A/absent.mp3"):
            with pytest.raises(NotStored):
                storage.attach(path, "txt", b"words", etag)
        assert len(self.read()) == 2
        kept = numbered(str(NAME), 1)
        storage.attach(kept, "txt", b"words", etag)  # which has its etag still
        assert self.read()[f"{kept}.txt"] == b"words"

    def test_what_is_attached_goes_with_its_recording(self, storage):
        publish(storage, b"old")
        storage.attach(str(NAME), "txt", b"words", self.etag(storage))
        publish(storage, b"new")
        path, kept = str(NAME), numbered(str(NAME), 1)
        assert self.read() == {path: b"new", kept: b"old", f"{kept}.txt": b"words"}

    def test_delete_takes_only_the_recording_that_was_meant(self, storage):
        publish(storage, b"old")
        etag = self.etag(storage)
        publish(storage, b"new")
        with pytest.raises(NotStored):
            storage.delete(str(NAME), etag)
        assert len(self.read()) == 2
        storage.delete(str(NAME), self.etag(storage))
        assert list(self.read().values()) == [b"old"]

    def test_held_recording_is_not_deleted(self, storage):
        publish(storage, b"audio")
        etag = self.etag(storage)
        storage.attach(str(NAME), "hold", b"{}", etag)
        with pytest.raises(Held):
            storage.delete(str(NAME), etag)
        assert len(self.read()) == 2
        storage.attach(str(NAME), "hold", b"", etag)
        storage.delete(str(NAME), etag)
        assert self.read() == {}

    def test_versions_are_the_newest_first_whatever_is_missing(self, storage):
        others = ("abc@10.0.0.1x", "abc@10.0.0", "abc@10.0.0.1~1")
        for name in (NAME, RecordingName("", "bare", "")):
            for call_id in others:
                other = RecordingName(name.folder, call_id, name.extension)
                publish(storage, call_id.encode(), other)
            path = str(name)
            assert storage.versions(path) == []
            for number in range(1, 13):
                publish(storage, b"%d" % number, name, metadata=b"{}")
            wanted = [path, *(numbered(path, number) for number in range(11, 0, -1))]
            assert storage.versions(path) == wanted
            for number in (1, 2, 5, 11):
                storage.delete(numbered(path, number))
            storage.delete(path)
            wanted = [numbered(path, number) for number in (10, 9, 8, 7, 6, 4, 3)]
            for each in (path, wanted[3], numbered(path, 99)):
                assert storage.versions(each) == wanted

    @pytest.mark.parametrize("missing", [(1,), (1, 2, 3), tuple(range(1, 40))])
    def test_bytes_of_an_older_recording_are_a_late_retry_whatever_numbers_are_missing(
        self, storage, missing
    ):
        for number in range(missing[-1] + 3):
            publish(storage, b"%d" % number)
        for number in missing:
            storage.delete(numbered(str(NAME), number))
        before = self.read()
        assert publish(storage, b"%d" % missing[-1]).outcome is Outcome.IDENTICAL
        assert self.read() == before
        stored = publish(storage, b"another")
        assert stored.kept_as == numbered(NAME.filename, missing[-1] + 3)
        assert self.read() == before | {
            str(NAME): b"another",
            stored.kept_path: b"%d" % (missing[-1] + 2),
        }

    def test_time_of_receipt_stays_with_a_recording(self, storage):
        old = 1_600_000_000.25
        for number in (1, 2, 3):
            with storage.incoming() as file:
                file.write(b"%d" % number)
                file.flush()
                os.utime(file.fileno(), (old + number,) * 2)
                storage.publish(file, NAME)
        with storage.incoming() as file:
            file.write(b"audio")
            file.flush()
            storage.put("copied.mp3", file, old)
        path = str(NAME)
        wanted = {
            path: old + 3,
            numbered(path, 1): old + 1,
            numbered(path, 2): old + 2,
            "copied.mp3": old,
        }
        assert {each.path: each.modified for each in storage.scan()} == wanted
        for path, modified in wanted.items():
            with closing(storage.open(path)) as recording:
                assert recording.modified == modified

    def etag(self, storage: Storage) -> str:
        with closing(storage.open(str(NAME))) as recording:
            return recording.etag

    def test_writers_of_one_name_in_many_processes_lose_nothing(self, storage):
        """16 writers with different bytes: 16 recordings afterwards, and the name is never gone."""
        context = multiprocessing.get_context("fork")
        barrier = context.Barrier(16, timeout=30)  # or the others wait for one that failed

        def write(number: int) -> None:
            own = self.open()
            for round_ in range(5):
                barrier.wait()
                publish(own, b"%d" % (round_ * 16 + number) * 1000)

        writers = [context.Process(target=write, args=(number,)) for number in range(16)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0
        wanted = Counter(b"%d" % number * 1000 for number in range(80))
        assert Counter(self.read().values()) == wanted

    def test_retries_of_one_recording_at_once_store_it_once(self, storage):
        outcomes = []
        barrier = threading.Barrier(8)

        def write() -> None:
            barrier.wait()
            outcomes.append(publish(storage, b"same").outcome)

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [Outcome.CREATED] + [Outcome.IDENTICAL] * 7
        assert list(self.read().values()) == [b"same"]
