"""The contract of storages in a bucket, and what goes wrong with one."""

import base64
import itertools
import multiprocessing
import os
import random
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("obstore")

from werkzeug.exceptions import RequestedRangeNotSatisfiable

from receiver import create_app
from receiver.core.naming import RecordingName, sidecar
from receiver.errors import (
    NameTaken,
    NotStored,
    SettingError,
    StorageFailed,
    StorageUnavailable,
)
from receiver.parts import Outcome, Storage
from receiver.reading.playback import answer
from receiver.retention import erasure
from receiver.retention.purge import purge
from receiver.retention.verify import verify
from receiver.storage import bucket, copying, objects, open_storage
from receiver.storage.paths import numbered
from support.buckets import SECRET, Server
from support.contract import StorageContract
from support.ports import free_port
from support.storages import NAME, publish
from support.waiting import wait_for

READER = {"Authorization": "Basic " + base64.b64encode(b"kazoo:secret").decode()}
PATH = "ACCOUNT/USER/abc@10.0.0.1.mp3"


def write_at_once(environ: dict[str, str], url: str, recordings: list[bytes], barrier) -> None:
    """Publish from a process of its own, each at the same time as others do."""
    os.environ.update(environ)
    storage = open_storage(url)
    for data in recordings:
        barrier.wait()
        publish(storage, data)


class BucketContract(StorageContract):
    """The contract, and what a bucket promises beyond it."""

    SERVER: type[Server]

    @pytest.fixture(autouse=True)
    def bucket(self, server, tmp_path, monkeypatch):
        self.server, self.tmp_path, self.monkeypatch = server, tmp_path, monkeypatch
        self.name = server.create_bucket()
        self.environ = server.environ | {"TMPDIR": str(tmp_path)}
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)
        self.url = f"s3://{self.name}/some/prefix"

    def open(self, **options) -> Storage:
        return open_storage(self.url, **options)

    def read(self) -> dict[str, bytes]:
        return self.server.objects(self.name, "some/prefix/")

    def attributes(self, path: str) -> dict:
        return self.server.client.head_object(Bucket=self.name, Key=f"some/prefix/{path}")

    def write(self, rounds: int, spools: list[str]) -> None:
        """16 writers with different bytes at once, each with one of the spool folders."""
        context = multiprocessing.get_context("forkserver")  # this process has used obstore
        context.set_forkserver_preload([__name__])
        # Where the server finds that, so that each writer need not import all of it anew.
        self.monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        barrier = context.Barrier(16, timeout=30)  # or the others wait for one that failed
        writers = []
        for number in range(16):
            environ = self.environ | {"TMPDIR": spools[number % len(spools)]}
            data = [b"%d" % (round_ * 16 + number) * 1000 for round_ in range(rounds)]
            arguments = (environ, self.url, data, barrier)
            writers.append(context.Process(target=write_at_once, args=arguments))
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0
        wanted = Counter(b"%d" % number * 1000 for number in range(rounds * 16))
        assert Counter(self.read().values()) == wanted

    def test_writers_of_one_name_in_many_processes_lose_nothing(self):
        self.write(2, [str(self.tmp_path)])

    @pytest.mark.parametrize("asked", ["", "bytes=900-"])
    def test_recording_that_is_superseded_before_it_was_read_is_read_anew(self, asked):
        storage = self.open()
        app = create_app({"STORAGE": str(self.tmp_path / "other")})
        app.extensions["receiver"].storage = storage
        path = publish(storage, b"old" * 1000).path
        opened = [storage.open(path)]
        publish(storage, b"new" * 10)

        def open_():
            return path, opened.pop() if opened else storage.open(path)

        with app.test_request_context(headers={"Range": asked} if asked else {}):
            if asked:
                with pytest.raises(RequestedRangeNotSatisfiable):
                    answer(open_)
            else:
                assert b"".join(answer(open_)[1].response) == b"new" * 10

    def test_refuse_keeps_the_first(self, storage):
        publish(storage, b"one")
        careful = self.open(supersede=False)
        with pytest.raises(NameTaken, match=f"another recording is stored as {PATH}"):
            publish(careful, b"two", metadata=b"{2}")
        assert publish(careful, b"one").outcome is Outcome.IDENTICAL
        assert list(self.read().values()) == [b"one"]

    def test_recording_is_never_taken_for_a_page(self, storage):
        publish(storage, b"<script>", RecordingName("", "x.html", ""))
        assert self.attributes("x.html~")["ContentType"] == "application/octet-stream"

    @pytest.mark.parametrize(
        "name",
        [
            RecordingName("A%2FB", "a/b", "mp3"),
            RecordingName("", "100% + ~a\\b?&#\udcff", "wav"),
            RecordingName("%2E.", "..a", ""),
            RecordingName("", "é" * 200, "mp3"),
        ],
    )
    def test_keys_are_the_stored_paths(self, storage, name):
        for data in (b"one", b"two"):
            publish(storage, data, name)
        kept = numbered(str(name), 1) if name.folder else numbered(name.filename, 1)
        assert self.read() == {str(name): b"two", kept: b"one"}
        assert {each.path for each in storage.scan()} == {str(name), kept}
        with closing(storage.open(str(name))) as recording:
            assert recording.file.read() == b"two"
            with urllib.request.urlopen(recording.link()) as answer:
                assert answer.read() == b"two"
        storage.delete(str(name))
        assert self.read() == {kept: b"one"}

    def test_any_part_can_be_read(self, storage):
        data = random.Random(1).randbytes(3_000_000)
        publish(storage, data)
        with closing(storage.open(PATH)) as recording:
            file = recording.file
            assert file.read() == data and file.read() == b""
            for start in (2_000_000, 5, 2_999_999, 3_000_000, 0):
                assert file.seek(start) == start
                assert file.read(100_000) == data[start : start + 100_000]
            assert file.seek(-3, os.SEEK_END) == 2_999_997
            assert file.read() == data[-3:]

    @pytest.mark.parametrize("change", ["supersede", "delete"])
    def test_reading_fails_where_the_recording_has_changed(self, storage, change):
        publish(storage, b"a" * 3_000_000)
        with closing(storage.open(PATH)) as recording:
            assert recording.file.read(10) == b"a" * 10
            recording.file.seek(2_000_000)
            if change == "supersede":
                publish(storage, b"b" * 3_000_000)
            else:
                storage.delete(PATH)
            with pytest.raises(StorageFailed, match="superseded while it was read"):
                recording.file.read(10)

    def test_what_the_server_forgot_of_it_is_read_again(self, storage):
        """Servers may lose user metadata, as rclone does; others' tools set none."""
        for path, data in ((PATH, b"two"), (PATH.replace(".mp3", "~1.mp3"), b"one")):
            self.server.client.put_object(
                Bucket=self.name, Key=f"some/prefix/{path}", Body=data, ContentType="audio/mpeg"
            )
        for data in (b"one", b"two"):
            assert publish(storage, data).outcome is Outcome.IDENTICAL
        stored = publish(storage, b"new")
        assert (stored.outcome, stored.kept_as) == (Outcome.SUPERSEDED, "abc@10.0.0.1~2.mp3")
        assert Counter(self.read().values()) == Counter([b"one", b"two", b"new"])

    @pytest.mark.parametrize("metadata", [b"", b"{new}"])
    @pytest.mark.parametrize("call", range(1, 6))
    def test_superseding_that_breaks_off_is_finished_by_the_retry(self, storage, metadata, call):
        self.monkeypatch.setattr(bucket, "PATIENCE", 0.2)
        publish(storage, b"old", metadata=b"{old}")
        with suppress(StorageUnavailable):
            self.publish_broken(storage, call, b"new", metadata)
        files = self.read()
        olds = [path for path, data in files.items() if data == b"old"]
        assert any(files.get(f"{path}.json") == b"{old}" for path in olds)
        assert publish(storage, b"new", metadata=metadata).outcome is not Outcome.CREATED
        files = self.read()
        assert (files[PATH], files.get(f"{PATH}.json", b"")) == (b"new", metadata)
        (kept,) = [path for path, data in files.items() if data == b"old"]
        assert files[f"{kept}.json"] == b"{old}"

    @pytest.mark.parametrize("metadata", [b"", b"{retry}"])
    def test_metadata_of_an_upload_that_broke_off_does_not_stay(self, storage, metadata):
        self.monkeypatch.setattr(bucket, "PATIENCE", 0.2)
        publish(storage, b"old", metadata=b"{old}")
        with pytest.raises(StorageUnavailable):  # with all in its place but the recording
            self.publish_broken(storage, 4, b"new", b"{new}")
        assert self.read()[f"{PATH}.json"] == b"{new}"
        assert publish(storage, b"old", metadata=metadata).outcome is Outcome.IDENTICAL
        assert self.read().get(f"{PATH}.json", b"") == metadata

    @pytest.mark.parametrize("metadata", [b"", b"{other}"])
    def test_metadata_of_an_upload_that_broke_off_is_not_taken_for_the_next_ones(
        self, storage, metadata
    ):
        self.monkeypatch.setattr(bucket, "PATIENCE", 0.2)
        with pytest.raises(StorageUnavailable):
            self.publish_broken(storage, 2, b"one", b"{one}")
        assert self.read() == {f"{PATH}.json": b"{one}"}
        publish(storage, b"other", metadata=metadata)
        files = self.read()
        assert (files[PATH], files.get(f"{PATH}.json", b"")) == (b"other", metadata)

    def publish_broken(self, storage: Storage, call: int, data: bytes, metadata: bytes) -> None:
        """Publish, but let the connection break before one of the PUTs."""
        original, calls = objects.obstore.put, []

        def put(*args, **kwargs):
            calls.append(args)
            if len(calls) == call:
                raise objects.BaseError("source: reqwest::Error")
            return original(*args, **kwargs)

        with self.monkeypatch.context() as patch:
            patch.setattr(objects.obstore, "put", put)
            publish(storage, data, metadata=metadata)

    @contextmanager
    def cut(self, number: int, kind: str) -> Iterator[Counter]:
        """Cut the connection at a request: before it, after it, or there and from then on."""
        lock, made = threading.Lock(), Counter()

        def failing(original):
            def request(*args, **kwargs):
                with lock:
                    made["all"] += 1
                    here = made["all"] == number or (kind == "kill" and made["all"] > number)
                    made["cut"] += here
                if here and kind == "after":
                    original(*args, **kwargs)
                if here:
                    raise objects.BaseError("HttpError: source: reqwest::Error")
                return original(*args, **kwargs)

            return request

        with self.monkeypatch.context() as patch:
            for name in ("put", "get", "delete", "list"):
                patch.setattr(objects.obstore, name, failing(getattr(objects.obstore, name)))
            yield made

    def cut_everywhere(self, begin, call, check) -> None:
        """Cut a call at each of its requests; each time the same call comes again."""
        self.monkeypatch.setattr(bucket, "PATIENCE", 0.01)
        for number in itertools.count(1):
            gave_up = False
            for kind in ("after", "before", "kill"):
                if kind == "kill" and gave_up:
                    continue  # it asked for nothing more, so that a kill is the same
                name = RecordingName("A", f"{kind}-{number}", "mp3")
                begin(name)
                with self.cut(number, kind) as made, suppress(StorageUnavailable):
                    call(name)
                if not made["cut"]:
                    assert number > 2
                    return
                gave_up = made["all"] == number
                call(name)
                stem = f"A/{name.call_id}"
                files = self.server.objects(self.name, "some/prefix/", stem)
                found = {
                    path.removeprefix(stem): data
                    for path, data in files.items()
                    if path.startswith((f"{stem}.", f"{stem}~"))
                }
                check(found, (kind, number))

    def store_with_all(self, storage: Storage, name: RecordingName, data: bytes) -> None:
        publish(storage, data, name, metadata=b'{"call": 1}')
        for each in ("txt", "vtt"):
            storage.attach(str(name), each, each.encode(), "")

    def test_deletion_that_is_cut_at_any_request_is_finished_by_the_next(self, storage):
        def delete(name):
            with suppress(NotStored):  # only the answer was cut
                storage.delete(str(name), etags[str(name)])

        def begin(name):
            self.store_with_all(storage, name, b"audio")
            with closing(storage.open(str(name))) as recording:
                etags[str(name)] = recording.etag

        def check(found, where):
            assert found == {}, where

        etags: dict[str, str] = {}
        self.cut_everywhere(begin, delete, check)

    def test_erasure_that_is_cut_at_any_request_is_finished_by_the_same_command(self, storage):
        def begin(name):
            publish(storage, b"audio", name, metadata=b'{"from": "+15551234"}')
            storage.attach(str(name), "txt", b"words", "")

        def erase(name):
            wanted = erasure.Wanted(number="15551234")
            found = erasure.find(storage, wanted)
            failed = erasure.erase(storage, None, None, wanted, found, receipts.append)
            told.append(bool(found.failed or failed))

        def check(found, where):
            assert found == {}, where
            assert not told[-1], where
            path = f"A/{where[0]}-{where[1]}.mp3"
            assert path in {receipt.path for receipt in receipts} or where[0] == "after", where

        receipts: list[erasure.Receipt] = []
        told: list[bool] = []
        self.cut_everywhere(begin, erase, check)

    def test_attaching_that_is_cut_at_any_request_is_done_by_the_next(self, storage):
        def check(found, where):
            assert found == {".mp3": b"audio", ".mp3.json": b"{}", ".mp3.hold": b"held"}, where

        self.cut_everywhere(
            lambda name: publish(storage, b"audio", name, metadata=b"{}"),
            lambda name: storage.attach(str(name), "hold", b"held", ""),
            check,
        )

    @pytest.mark.parametrize("metadata", [b"", b"{new}"])
    @pytest.mark.parametrize("left", [False, True])
    def test_upload_that_is_cut_at_any_request_is_stored_by_the_next(self, storage, metadata, left):
        def begin(name):
            for kind in ("json", "txt", "hold") if left else ():
                self.put_object(f"{name}.{kind}", b"of another")

        def check(found, where):
            wanted = {".mp3": b"new"} | ({".mp3.json": metadata} if metadata else {})
            assert found == wanted, where

        self.cut_everywhere(
            begin, lambda name: publish(storage, b"new", name, metadata=metadata), check
        )

    @pytest.mark.parametrize("metadata", [b"", b"{new}"])
    def test_superseding_that_is_cut_at_any_request_is_done_by_the_next(self, storage, metadata):
        def begin(name):
            self.store_with_all(storage, name, b"old")
            storage.attach(str(name), "hold", b"held", "")

        def check(found, where):
            wanted = {".mp3": b"new"} | ({".mp3.json": metadata} if metadata else {})
            kept = {".mp3": b"old", ".mp3.json": b'{"call": 1}', ".mp3.hold": b"held"}
            kept |= {".mp3.txt": b"txt", ".mp3.vtt": b"vtt"}
            assert found == wanted | {f"~1{path}": data for path, data in kept.items()}, where

        self.cut_everywhere(
            begin, lambda name: publish(storage, b"new", name, metadata=metadata), check
        )

    def test_copy_that_is_cut_at_any_request_is_finished_by_the_next(self, storage):
        source = open_storage(str(self.tmp_path / "source"))

        def begin(name):
            publish(source, b"audio", name, metadata=b"{}")
            for kind in ("txt", "hold"):
                source.attach(str(name), kind, kind.encode(), "")

        def copy(name):
            report = copying.copy_all(source, storage, threads=1)
            told.append(report.failed)

        def check(found, where):
            assert not told[-1], where
            wanted = {".mp3": b"audio", ".mp3.json": b"{}"}
            assert found == wanted | {".mp3.txt": b"txt", ".mp3.hold": b"hold"}, where
            for each in source.scan():
                source.attach(each.path, "hold", b"", "")
                source.delete(each.path)

        told: list[list[str]] = []
        self.cut_everywhere(begin, copy, check)

    def put_object(self, path: str, data: bytes, **metadata: str) -> None:
        self.server.client.put_object(
            Bucket=self.name, Key=f"some/prefix/{path}", Body=data, Metadata=metadata
        )

    @pytest.mark.parametrize("name", [NAME, RecordingName("", "bare", "")])
    def test_what_a_gone_recording_left_is_seen_and_can_be_removed(self, storage, name):
        path = str(name)
        publish(storage, b"audio", name, metadata=b"{}")
        publish(storage, b"other", RecordingName("", "bare-other", ""), metadata=b"{}")
        self.server.client.delete_object(Bucket=self.name, Key=f"some/prefix/{path}")
        (gone,) = [each for each in storage.scan() if each.is_gone]
        assert (gone.path, gone.size) == (path, 0)
        assert storage.versions(path) == []
        report = verify(storage, None, time.time() + 3600)
        assert report.wrong == [f"alone: {sidecar(path, 'json')}: its recording is not stored"]
        self.monkeypatch.setattr(bucket, "PATIENCE", 0.2)
        days = {"": 1}
        assert purge(storage, None, days, time.time()).removed == []
        assert [each.path for each in purge(storage, None, days, time.time() + 1e6).removed]
        assert self.read() == {}

    def test_time_of_receipt_is_the_buckets_own_where_nobody_noted_another(self, storage):
        self.put_object("a.mp3", b"x")
        self.put_object("b.mp3", b"x", received="1600000000.5")
        self.put_object("c.mp3", b"x", received="nan")
        found = {each.path: each.modified for each in storage.scan()}
        assert found["b.mp3"] == 1_600_000_000.5
        assert abs(found["a.mp3"] - time.time()) < 60 and abs(found["c.mp3"] - time.time()) < 60

    def test_each_of_many_recordings_of_a_name_takes_as_long(self, storage):
        for number in range(1, 301):
            self.put_object(numbered(PATH, number), b"%06d" % number)
        publish(storage, b"000000")
        with self.cut(0, "before") as made:
            assert publish(storage, b"999999").kept_as == numbered(NAME.filename, 301)
        assert made["all"] < 40
        with self.cut(0, "before") as made:
            assert publish(storage, b"000150").outcome is Outcome.IDENTICAL
        assert made["all"] < 20

    def other_users_file(self, storage: Storage) -> Path:
        if os.geteuid():
            pytest.skip("needs root")
        path = self.tmp_path / f".kazoo-receiver-{os.geteuid()}.locks"
        path.unlink()
        path.touch(0o666)
        os.chown(path, 65534, 65534)
        return path

    def test_largest_recording_is_no_larger_than_the_bucket_takes(self, storage):
        with pytest.raises(SettingError, match="KZR_MAX_BYTES: .* 5 GiB: set it to 5G"):
            create_app({"STORAGE": self.url, "MAX_BYTES": "6G"})

    @pytest.mark.parametrize("setting", ["CATALOG", "QUEUE"])
    def test_place_of_catalog_and_queue_is_demanded(self, setting):
        settings = {"CATALOG": {"CATALOG": "yes"}, "QUEUE": {"CHECKSUMS": "yes"}}[setting]
        with pytest.raises(SettingError, match=f"set KZR_{setting}=sqlite:////PATH") as error:
            create_app({"STORAGE": self.url} | settings, serving=False)
        assert "\n" not in str(error.value)

    def test_transcripts_stay_with_their_recording(self, storage):
        publish(storage, b"old")
        for kind in ("txt", "vtt"):
            with storage.incoming() as file:
                file.write(kind.encode())
                storage.put(f"{PATH}.{kind}", file, 0)
        publish(storage, b"new")
        kept = PATH.replace(".mp3", "~1.mp3")
        assert self.read() == {
            PATH: b"new",
            kept: b"old",
            f"{kept}.txt": b"txt",
            f"{kept}.vtt": b"vtt",
        }

    def test_names_that_no_bucket_takes_end_no_copy(self, storage, tmp_path):
        source = open_storage(str(tmp_path / "source"))
        for name in (b"a.mp3", b"esc\x1b.mp3", b"line\nbreak.mp3", b"\xfc.mp3", b"z.mp3"):
            Path(os.fsdecode(bytes(source.root) + b"/" + name)).write_bytes(name)
        report = copying.copy_all(source, storage)
        assert (report.copied, sorted(self.read())) == (2, ["a.mp3", "z.mp3"])
        assert sorted(each.partition(": ")[0] for each in report.failed) == [
            r"\xfc.mp3",
            r"esc\x1b.mp3",
            r"line\nbreak.mp3",
        ]
        assert all("a bucket takes no such name: rename it" in each for each in report.failed)

    def test_hidden_and_foreign_objects_are_not_listed(self, storage):
        publish(storage, b"audio")
        for key in (".hidden/x.mp3", "A/.x.mp3", "A/.x.mp3.json"):
            self.server.client.put_object(Bucket=self.name, Key=f"some/prefix/{key}", Body=b"x")
        assert [each.path for each in storage.scan()] == [PATH]

    def test_server_that_goes_away_is_a_503_until_it_is_back(self, storage):
        publish(storage, b"one")
        self.server.stop()
        try:
            for call in (
                lambda: publish(storage, b"two"),
                lambda: storage.open(PATH),
                lambda: list(storage.scan()),
                lambda: storage.delete(PATH),
            ):
                before = time.monotonic()
                with pytest.raises(StorageUnavailable, match="cannot be reached.*refused") as error:
                    call()
                assert time.monotonic() - before < 10
                assert len(error.value.description) < 120 and "\n" not in error.value.description
        finally:
            self.server.start()
        with suppress(self.server.client.exceptions.BucketAlreadyExists):
            self.server.client.create_bucket(Bucket=self.name)
        publish(storage, b"two")
        assert b"two" in self.read().values()

    def test_stalled_server_is_given_up(self, storage, monkeypatch):
        monkeypatch.setattr(objects, "TIMEOUT", objects.timedelta(seconds=2))
        own = self.open()
        self.server.pause()
        try:
            for call in (lambda: publish(own, b"one"), lambda: own.open(PATH)):
                before = time.monotonic()
                with pytest.raises(StorageUnavailable, match="cannot be reached.*TimedOut"):
                    call()
                assert time.monotonic() - before < 8
        finally:
            self.server.resume()

    def test_recording_is_not_visible_in_part(self, storage):
        """The server is killed while it takes a large recording."""
        threading.Timer(0.05, self.server.kill).start()
        try:
            with pytest.raises(StorageUnavailable):
                for _ in range(100):
                    publish(storage, os.urandom(20_000_000), RecordingName("", "x", "mp3"))
        finally:
            wait_for(lambda: self.server.process.poll() is not None)
            self.server.start()
        with suppress(self.server.client.exceptions.NoSuchBucket):
            assert all(len(data) == 20_000_000 for data in self.read().values())

    def test_missing_bucket_is_told(self, storage):
        with pytest.raises(SettingError, match="KZR_STORAGE=s3://absent: there is no bucket"):
            open_storage("s3://absent/prefix")
        publish(storage, b"one")
        for key in self.read():
            self.server.client.delete_object(Bucket=self.name, Key=f"some/prefix/{key}")
        self.server.client.delete_bucket(Bucket=self.name)
        for call in (
            lambda: publish(storage, b"two"),
            lambda: storage.open(PATH),
            lambda: storage.delete(PATH),
            lambda: list(storage.scan()),
        ):
            with pytest.raises(StorageFailed, match="there is no bucket") as error:
                call()
            assert error.value.code == 500

    def test_unreachable_server_is_told_and_waited_for(self, storage, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        before = time.monotonic()
        with pytest.raises(SettingError, match="cannot be reached.*KZR_STORAGE_WAIT") as error:
            open_storage(self.url, wait=2)
        assert 2 < time.monotonic() - before < 20
        assert SECRET not in str(error.value)

    def test_unknown_host_is_told(self, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://absent.invalid")
        with pytest.raises(SettingError, match="cannot be reached: s3://.*: failed to lookup"):
            self.open()

    @pytest.mark.parametrize("url", ["s3://", "s3://a b/", "az://x"])
    def test_useless_url_is_told(self, url):
        with pytest.raises(SettingError, match="KZR_STORAGE="):
            open_storage(url)

    def test_process_that_was_forked_too_late_fails_and_does_not_hang(self, storage):
        publish(storage, b"one")
        child = os.fork()
        if not child:
            code = 1
            try:
                storage.open(PATH)
            except StorageFailed as error:
                code = 7 * ("forked" in error.description)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    @pytest.mark.parametrize("preload", [(), ("--preload",)])
    def test_receiver_stores_and_reads_back(self, start, preload):
        """With two workers, which were forked after the application had tried the bucket."""
        receiver = start("--workers=2", *preload, storage=self.url, readers="kazoo:secret")
        wait_for(lambda: len(receiver.workers) == 2)
        data = random.Random(2).randbytes(1_000_000)
        threads = []
        for number in range(8):
            target = f"/A/call_recording_{number}.mp3"
            threads.append(threading.Thread(target=receiver.put, args=(target, data)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(self.read().values()) == [data] * 8
        for number in range(8):
            answer = receiver.request("GET", f"/A/call_recording_{number}.mp3", headers=READER)
            assert (answer.status, answer.body) == (200, data)
            asked = READER | {"Range": "bytes=500000-500009"}
            answer = receiver.request("GET", f"/A/call_recording_{number}.mp3", headers=asked)
            assert (answer.status, answer.body) == (206, data[500_000:500_010])

    def test_receiver_lets_the_bucket_answer(self, start):
        receiver = start(storage=self.url, readers="kazoo:secret", redirect_reads="1")
        assert receiver.put("/A/call_recording_x.mp3", b"audio").status == 201
        browser = READER | {"User-Agent": "curl/7.88.1"}
        answer = receiver.request("GET", "/A/call_recording_x.mp3", headers=browser)
        assert answer.status == 302
        with urllib.request.urlopen(answer.headers["Location"]) as direct:
            assert (direct.read(), direct.headers["Content-Type"]) == (b"audio", "audio/mpeg")

    @pytest.mark.parametrize("headers", [{}, {"te": ""}, {"User-Agent": ""}])
    def test_client_that_would_send_its_credentials_there_is_served(self, start, headers):
        """Kazoo's: it has no User-Agent, follows a 302 by itself and forwards Authorization."""
        receiver = start(storage=self.url, readers="kazoo:secret", redirect_reads="1")
        for id_ in "AB":
            target = f"/A/call_recording_x.mp3?recording_id={id_}"
            assert receiver.put(target, id_.encode()).status in (200, 201)
        for id_ in "AB":
            target = f"/A/call_recording_x.mp3?id={id_}"
            answer = receiver.request("GET", target, headers=READER | headers)
            assert (answer.status, answer.body) == (200, id_.encode())

    def test_who_names_one_of_several_is_served(self, start):
        """Another may take the name before a link to it is followed."""
        receiver = start(storage=self.url, readers="kazoo:secret", redirect_reads="1")
        browser = READER | {"User-Agent": "Mozilla/5.0"}
        for id_ in "AB":
            target = f"/A/call_recording_x.mp3?recording_id={id_}"
            assert receiver.put(target, id_.encode()).status in (200, 201)
            answer = receiver.request("GET", f"/A/call_recording_x.mp3?id={id_}", headers=browser)
            assert (answer.status, answer.body) == (200, id_.encode())
        without = receiver.request("GET", "/A/call_recording_x.mp3", headers=browser)
        assert without.status == 302
        # The link is for GET only.
        conditional = browser | {"If-None-Match": "*"}
        for headers in (browser, conditional):
            answer = receiver.request("HEAD", "/A/call_recording_x.mp3", headers=headers)
            assert answer.status in (200, 304)
