"""Work after storing: commands."""

import json
import time
from pathlib import Path

import pytest

pytest.importorskip("huey")
pytest.importorskip("sqlalchemy")

from receiver.jobs import command
from receiver.jobs.event import JobFailed
from receiver.storage import open_storage
from support.hooks import DIGEST, PATH, TOLD, store, work
from support.waiting import wait_for


def is_running(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


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
        path = tmp_path / "recordings" / PATH
        assert noted == f"exit status 0: {DIGEST}  - / {PATH} / created / {path}"
        told = json.loads((tmp_path / "told").read_text())
        assert told == TOLD | {"cost": "NaN"}

    def test_elsewhere_it_gets_a_copy_that_goes_with_it(self, tmp_path):
        storage = open_storage(f"sqlite:///{tmp_path}/recordings.sqlite")
        noted = self.run(storage, tmp_path, 'sha256sum < "$RECORDING_PATH"; echo "$RECORDING_PATH"')
        storage.engine.dispose()
        digest, path = noted.removeprefix("exit status 0: ").split(" / ")
        assert digest == f"{DIGEST}  -"
        assert path.endswith(".mp3") and not Path(path).exists()

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

    def test_large_metadata_fits(self, storage, tmp_path):
        deep = b'{"deep": ' + b"[" * 400 + b"]" * 400 + b', "long": "' + b"x" * 60_000 + b'"}'
        event = store(storage, metadata=deep)
        noted = self.run(storage, tmp_path, 'printf %s "$RECORDING_METADATA" | wc -c', event)
        assert int(noted.split()[-1]) > 60_000

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
