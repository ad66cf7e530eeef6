"""Storages in a bucket of rclone's, which ignores conditions."""

import subprocess
import sys

import pytest

from receiver.errors import SettingError
from support.bucket_contract import BucketContract
from support.buckets import KEY, SECRET, Rclone


class TestRclone(BucketContract):
    """A server that ignores conditions, loses user metadata and takes parts for the whole.

    One receiver, whatever its number of processes, loses nothing here either.
    """

    SERVER = Rclone

    def test_conditions_are_missed(self, caplog):
        self.open()
        assert caplog.messages == [
            f"s3://{self.name} ignores If-None-Match or If-Match: let the receivers of one machine "
            "only store there, or one may overwrite what another has stored under the same name"
        ]

    def test_file_of_locks_that_is_another_users_stops_the_start(self, storage):
        path = self.other_users_file(storage)
        with pytest.raises(SettingError, match=f"{path} .*: set TMPDIR to a folder") as error:
            self.open()
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("name", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "wrong")]
    )
    def test_wrong_credentials_are_told(self, storage, monkeypatch, name, value):
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingError, match="access denied.*403.*credentials") as error:
            self.open()
        assert not {KEY, SECRET, "wrong"} & set(str(error.value).split())

    def test_memory_does_not_grow_with_the_recording(self):
        """The peak of a process's own memory, without the pages of the file that it maps."""
        code = (
            "import os, sys\n"
            "from receiver.core.naming import RecordingName\n"
            "from receiver.storage import open_storage\n"
            "def own():\n"
            "    status = dict(line.split(':') for line in open('/proc/self/status'))\n"
            "    return int(status['RssAnon'].split()[0])\n"
            "storage = open_storage(sys.argv[1])\n"
            "with storage.incoming() as file:\n"
            "    for _ in range(300):\n"
            "        file.write(os.urandom(1_000_000))\n"
            "    file.flush()\n"
            "    before = own()\n"
            "    storage.publish(file, RecordingName('', 'x', 'mp3'))\n"
            "    print(own() - before)\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, self.url], capture_output=True, text=True, check=True
        )
        assert int(run.stdout) < 50_000  # KiB
        assert [len(data) for data in self.read().values()] == [300_000_000]
