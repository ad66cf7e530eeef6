"""Work after storing: commands."""

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from receiver.jobs import command, files
from receiver.jobs.event import JobFailed
from receiver.storage import open_storage
from support.hooks import AUDIO, DIGEST, PATH, TOLD, store, work
from support.paths import PROJECT
from support.waiting import wait_for


def is_running(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def left_in(folder: Path) -> list[str]:
    """What jobs have left in a folder."""
    return [name for name in os.listdir(folder) if name.startswith(".kazoo-receiver-jobs-")]


class TestCommand:
    def script(self, tmp_path: Path, text: str) -> str:
        path = tmp_path / "hook"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def run(self, storage, tmp_path, text: str, event=None) -> str:
        script = self.script(tmp_path, text)
        return work("command", storage, ON_STORED=script)(event or store(storage))

    def test_it_knows_the_recording(self, storage, tmp_path):
        text = (
            'sha256sum < "$RECORDING_PATH"; echo "$RECORDING_NAME"; echo "$RECORDING_OUTCOME"; '
            f'echo "$RECORDING_PATH"; printf %s "$RECORDING_METADATA" > {tmp_path}/told'
        )
        noted = self.run(storage, tmp_path, text)
        begin, path = noted.rsplit(" / ", 1)
        assert begin == f"exit status 0: {DIGEST}  - / {PATH} / created"
        assert path.endswith("/recording.mp3") and not Path(path).exists()
        told = json.loads((tmp_path / "told").read_text())
        assert told == TOLD | {"cost": "NaN"}

    def test_elsewhere_it_gets_a_copy_that_goes_with_it(self, tmp_path):
        storage = open_storage(f"sqlite:///{tmp_path}/recordings.sqlite")
        noted = self.run(storage, tmp_path, 'sha256sum < "$RECORDING_PATH"; echo "$RECORDING_PATH"')
        storage.engine.dispose()
        digest, path = noted.removeprefix("exit status 0: ").split(" / ")
        assert digest == f"{DIGEST}  -"
        assert path.endswith(".mp3") and not Path(path).exists()
        assert left_in(tmp_path) == []

    @pytest.mark.parametrize("kind", ["folder", "database"])
    def test_it_reads_the_very_bytes_of_its_event_whatever_takes_the_name(self, tmp_path, kind):
        url = str(tmp_path / "recordings")
        storage = open_storage(url if kind == "folder" else f"sqlite:///{tmp_path}/x.sqlite")
        event = store(storage)
        text = f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; "
        text += 'sha256sum < "$RECORDING_PATH"'
        with ThreadPoolExecutor(1) as pool:
            noted = pool.submit(self.run, storage, tmp_path, text, event)
            wait_for(lambda: (tmp_path / "begun").exists())
            store(storage, b"another", metadata=b"{}")
            (tmp_path / "go").touch()
            assert noted.result() == f"exit status 0: {DIGEST}  -"
        if kind == "database":
            storage.engine.dispose()

    def test_recording_of_another_file_system_is_copied(self, storage, tmp_path, monkeypatch):
        def refuse(file, path):
            if file.name == str(tmp_path / "recordings" / PATH) or isinstance(file.name, int):
                monkeypatch.undo()
                raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(files, "_link", refuse)
        noted = self.run(storage, tmp_path, 'sha256sum < "$RECORDING_PATH"')
        assert noted == f"exit status 0: {DIGEST}  -"

    @pytest.mark.parametrize("kind", ["folder", "database"])
    def test_what_a_killed_worker_left_is_removed_by_the_next_and_by_an_erasure(
        self, start, tmp_path, kind, monkeypatch, start_worker
    ):
        url = str(tmp_path / "recordings")
        if kind == "database":
            url = f"sqlite:///{tmp_path}/recordings/x.sqlite"
            (tmp_path / "recordings").mkdir()
        begun = tmp_path / "begun"
        settings = {
            "storage": url,
            "on_stored": f"sh -c 'touch {begun}; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done'",
        }
        start(**settings).put("/kzr/call_recording_x.mp3", AUDIO)
        (tmp_path / "shift").write_text("0")
        for sweeper in ("worker", "erasure"):
            worker = start_worker(tmp_path / "shift", **settings)
            wait_for(begun.exists)
            begun.unlink()
            left = left_in(tmp_path / "recordings")
            assert len(left) == 1
            worker.kill()
            assert left_in(tmp_path / "recordings") == left
            if sweeper == "worker":
                another = start_worker(**settings | {"on_stored": "true"})
                wait_for(lambda: left_in(tmp_path / "recordings") == [])
                another.kill()
            else:
                for name, value in settings.items():
                    monkeypatch.setenv(f"KZR_{name.upper()}", value)
                code = "from receiver.shell import main; main()"
                erase = [sys.executable, "-c", code, "erase", "--call-id", "x", "--yes"]
                subprocess.run(erase, cwd=PROJECT, check=True)
                assert left_in(tmp_path / "recordings") == []
        (tmp_path / "go").touch()

    def test_arguments_are_no_shell(self, storage):
        noted = work("command", storage, ON_STORED="echo '$HOME; ls' \"two  spaces\"")(
            store(storage)
        )
        assert noted == "exit status 0: $HOME; ls two  spaces"

    def test_secrets_stay_here(self, storage, tmp_path, monkeypatch):
        for name in ("KZR_WRITERS", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_KEY", "PGPASSWORD"):
            monkeypatch.setenv(name, "user:hunter2")
        monkeypatch.setenv("HARMLESS", "known")
        self.run(storage, tmp_path, f"env > {tmp_path}/environment")
        environment = (tmp_path / "environment").read_text()
        assert "hunter2" not in environment
        assert "HARMLESS=known" in environment

    @pytest.mark.parametrize("size", [60_000, 4_000_000])
    def test_large_metadata_is_in_a_file(self, storage, tmp_path, size):
        deep = b'{"deep": ' + b"[" * 400 + b"]" * 400 + b', "long": "' + b"\xc3\xbc" * (size // 2)
        event = store(storage, metadata=deep + b'"}')
        text = 'wc -c < "$RECORDING_METADATA_PATH"; echo "${RECORDING_METADATA-absent}"'
        count, variable = self.run(storage, tmp_path, text, event).split()[3::2]
        assert int(count) > size and variable == "absent"

    def test_small_metadata_is_in_a_file_too(self, storage, tmp_path):
        event = store(storage, metadata=b'{"from": "1001"}')
        text = 'cat "$RECORDING_METADATA_PATH"; echo; echo "$RECORDING_METADATA"'
        told = '{"from": "1001"}'
        assert self.run(storage, tmp_path, text, event) == f"exit status 0: {told} / {told}"

    def test_a_failure_tells_the_last_line(self, storage, tmp_path):
        with pytest.raises(JobFailed, match=r"^exit status 3: no space$"):
            self.run(storage, tmp_path, "echo begin; echo no space >&2; exit 3")
        with pytest.raises(JobFailed, match=r"^exit status 4$"):
            self.run(storage, tmp_path, "exit 4")
        with pytest.raises(JobFailed, match=r"^killed by signal 9$"):
            self.run(storage, tmp_path, "kill -9 $$")

    def test_what_it_says_cannot_forge_lines_of_the_log(self, storage, tmp_path):
        noted = self.run(storage, tmp_path, r"printf 'one\r\n\033[31mtwo\n\377'")
        assert noted == "exit status 0: one / ?[31mtwo / \ufffd"

    @pytest.mark.parametrize(
        ("mode", "reason"),
        [(None, "No such file"), (0o644, "Permission denied"), (0o755, "Exec format error")],
    )
    def test_a_command_that_cannot_run_is_named(self, storage, tmp_path, mode, reason):
        path = tmp_path / "hook"
        if mode:
            path.write_text("no program\n")
            path.chmod(mode)
        with pytest.raises(JobFailed, match=f"^cannot run {path}: {reason}"):
            work("command", storage, ON_STORED=f"{path} --option")(store(storage))

    def test_its_time_ends_with_all_that_it_started(self, storage, tmp_path, monkeypatch):
        monkeypatch.setattr(command, "COMMAND_SECONDS", 1)
        begin = time.monotonic()
        with pytest.raises(JobFailed, match="still ran after 1 seconds.*: waiting"):
            self.run(
                storage, tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; echo waiting; sleep 60"
            )
        assert 1 <= time.monotonic() - begin < 10
        child = int((tmp_path / "child").read_text())
        wait_for(lambda: not is_running(child))

    def test_what_it_leaves_in_the_background_ends_with_it(self, storage, tmp_path):
        begin = time.monotonic()
        noted = self.run(storage, tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; echo done")
        assert noted == "exit status 0: done"
        assert time.monotonic() - begin < 10
        child = int((tmp_path / "child").read_text())
        wait_for(lambda: not is_running(child))

    def test_endless_output_takes_no_memory(self, storage, tmp_path, monkeypatch):
        monkeypatch.setattr(command, "COMMAND_SECONDS", 1)
        tails = []
        watch = command._watch
        monkeypatch.setattr(
            command, "_watch", lambda process: tails.append(watch(process)) or tails[0]
        )
        with pytest.raises(JobFailed, match="still ran after 1 seconds"):
            self.run(storage, tmp_path, "yes endless")
        assert len(tails[0][1]) == command.TAIL

    def test_all_of_the_end_of_long_output_is_kept(self, storage, tmp_path):
        noted = self.run(storage, tmp_path, "seq 100000")
        assert noted.startswith("exit status 0: ") and noted.endswith("/ 99999 / 100000")
        assert len(noted) < 2 * command.TAIL

    def test_closed_output_is_not_the_end(self, storage, tmp_path):
        assert self.run(storage, tmp_path, "exec >&- 2>&-; sleep 0.3") == "exit status 0"
