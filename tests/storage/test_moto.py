"""Storages in a bucket of moto's, which knows conditions."""

import fcntl
import hashlib
import logging
import os
import struct
import threading
import time

import pytest

from receiver.core.naming import RecordingName
from receiver.parts import Outcome
from receiver.retention.verify import verify
from receiver.storage.paths import numbered
from support.bucket_contract import PATH, BucketContract
from support.buckets import Moto
from support.storages import publish
from support.waiting import wait_for


class TestMoto(BucketContract):
    """A server that knows conditions: nothing is lost even between receivers that share no disk."""

    SERVER = Moto

    def test_receivers_on_several_machines_lose_nothing(self):
        """Two spool folders stand for two machines: their receivers share no lock."""
        spools = [str(self.tmp_path / name) for name in ("one", "other")]
        for spool in spools:
            os.mkdir(spool)
        self.write(2, spools)

    def test_conditions_are_known(self, caplog):
        caplog.set_level(logging.INFO, "receiver")
        self.open()
        assert caplog.messages == []

    def test_file_of_locks_that_is_another_users_decides_nothing(self, storage, caplog):
        with open(self.other_users_file(storage)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            lock = struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
            assert publish(self.open(), b"audio").outcome is Outcome.CREATED

    @pytest.mark.parametrize("kind", ["folder", "link", "pipe", "shared"])
    def test_what_else_is_in_the_place_of_the_locks_decides_nothing(self, storage, kind):
        path = self.tmp_path / f".kazoo-receiver-{os.geteuid()}.locks"
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("/dev/null")
        elif kind == "pipe":
            os.mkfifo(path, 0o600)
        else:
            path.touch()
            path.chmod(0o666)
        assert publish(self.open(), b"audio").outcome is Outcome.CREATED

    @pytest.mark.parametrize("key", ["BAD//b.mp3", "BAD/../b.mp3", "BAD/./b.mp3"])
    def test_key_that_is_no_name_ends_no_listing(self, storage, key):
        """obstore fails at a whole page of a listing for it: the other folders are listed."""
        names = [RecordingName(folder, "x", "mp3") for folder in ("", "A", "A/B", "BADLY", "C")]
        for name in names:
            publish(storage, b"old", name)
            publish(storage, b"new", name)
        self.server.client.put_object(Bucket=self.name, Key=f"some/prefix/{key}", Body=b"x")
        told = []
        found = [each.path for each in storage.scan(odd=told.append)]
        assert sorted(found) == sorted(numbered(str(name), n) for name in names for n in (0, 1))
        (line,) = told
        assert line.startswith(f"BAD: passed over: some/prefix/{key.removesuffix('b.mp3')}")
        for name in names:
            assert storage.versions(str(name)) == [str(name), numbered(str(name), 1)]
            assert publish(storage, b"newer", name).outcome is Outcome.SUPERSEDED
        told.clear()
        assert [each.path for each in storage.scan("A/", told.append)] == [
            each
            for each in sorted(numbered(str(n), i) for n in names for i in range(3))
            if each.startswith("A/")
        ]
        assert verify(storage, None, time.time()).wrong[0].startswith("unreadable: BAD: passed")

    def test_media_type_and_digest_are_noted(self, storage):
        for data in (b"old", b"new"):
            publish(storage, data, metadata=b"{}")
        for path, data in ((PATH, b"new"), (PATH.replace(".mp3", "~1.mp3"), b"old")):
            digest = hashlib.sha256(data).hexdigest()
            told = self.attributes(path)
            assert (told["ContentType"], told["Metadata"]["sha256"]) == ("audio/mpeg", digest)
            told = self.attributes(f"{path}.json")
            assert told["ContentType"] == "application/json"
            assert told["Metadata"]["describes"] == digest

    @pytest.mark.parametrize(("metadata", "requests"), [(b"", 7), (b"{}", 7)])
    def test_new_recording_takes_few_requests(self, storage, metadata, requests):
        log = self.server.folder / "log"
        before = log.read_text().count("HTTP/1.1")
        publish(storage, b"audio", metadata=metadata)
        wait_for(lambda: log.read_text().count("HTTP/1.1") >= before + requests)
        assert log.read_text().count("HTTP/1.1") == before + requests

    def test_metadata_of_another_machines_upload_is_left_to_it(self, storage):
        """Its recording, which is on its way, arrives while this one waits."""
        other = hashlib.sha256(b"other").hexdigest()
        put = self.server.client.put_object
        put(
            Bucket=self.name,
            Key=f"some/prefix/{PATH}.json",
            Body=b"{other}",
            Metadata={"describes": other},
        )
        thread = threading.Timer(
            0.5,
            lambda: put(
                Bucket=self.name,
                Key=f"some/prefix/{PATH}",
                Body=b"other",
                Metadata={"sha256": other},
            ),
        )
        thread.start()
        assert publish(storage, b"own", metadata=b"{own}").outcome is Outcome.SUPERSEDED
        thread.join()
        kept = PATH.replace(".mp3", "~1.mp3")
        assert self.read() == {
            PATH: b"own",
            f"{PATH}.json": b"{own}",
            kept: b"other",
            f"{kept}.json": b"{other}",
        }
