"""What makes an application: who serves, who only runs a command, and which libraries fit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from receiver import create_app
from receiver.errors import SettingError
from support.clients import Client
from support.paths import PROJECT
from support.ports import free_port
from support.waiting import wait_for


def run(*arguments: str, **settings: object) -> subprocess.CompletedProcess:
    """Run Python in the project with a receiver's settings."""
    environ = {"PATH": os.environ["PATH"]}
    environ |= {f"KZR_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=PROJECT, env=environ, capture_output=True, text=True, timeout=60
    )


class FlaskRun(Client):
    """`flask run`, which serves as gunicorn does."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.port = free_port()
        self.log = folder / "log"
        environ = {"PATH": os.environ["PATH"], "KZR_STORAGE": str(folder / "recordings")}
        environ |= {f"KZR_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "flask", "--app", "app", "run", f"--port={self.port}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=PROJECT, env=environ, stdout=log, stderr=log
            )
        wait_for(lambda: "Running on" in self.log.read_text())

    def __enter__(self) -> "FlaskRun":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait()


def test_flask_run_takes_what_nginx_hands_over(tmp_path):
    handover = tmp_path / "recordings" / ".handover"
    with FlaskRun(tmp_path, handover_dir=handover) as server:
        (handover / "0000000001").write_bytes(b"audio")
        headers = {"X-Body-File": str(handover / "0000000001"), "X-Body-Length": "5"}
        answer = server.request("PUT", "/kzr/call_recording_x.mp3", headers=headers)
    assert answer.status == 201
    assert (tmp_path / "recordings" / "x.mp3").read_bytes() == b"audio"


def test_flask_run_refuses_at_once_what_has_no_length(tmp_path):
    """A client that sends no body waits for the answer, and so must not be waited for."""
    with FlaskRun(tmp_path) as server:
        answer = server.raw(b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.status == 411


def test_flask_run_warns_of_an_open_door(tmp_path):
    with FlaskRun(tmp_path) as server:
        assert "anybody who reaches this server may write" in server.log.read_text()


def test_a_command_opens_only_what_it_uses(tmp_path):
    storage = tmp_path / "absent"
    shown = run("-m", "flask", "--app", "app", "jobs", storage=storage)
    assert "nothing is to be done after storing" in shown.stderr
    assert "may write" not in shown.stderr
    assert not storage.exists()


def test_a_server_whose_command_line_is_clicks_serves(tmp_path):
    code = "import click; click.command()(lambda: __import__('app'))()"
    shown = run("-c", code, storage=tmp_path / "recordings")
    assert "anybody who reaches this server may write" in shown.stderr
    assert (tmp_path / "recordings").exists()


def test_an_application_that_does_not_serve_creates_no_storage(tmp_path):
    app = create_app({"STORAGE": str(tmp_path / "absent")}, serving=False)
    with pytest.raises(SettingError, match="there is no storage"):
        _ = app.extensions["receiver"].storage
    assert not (tmp_path / "absent").exists()


def test_gunicorn_without_what_is_used_of_it_ends_the_start_in_one_line():
    without = "from gunicorn.http.unreader import SocketUnreader; del SocketUnreader.max_body_chunk"
    shown = run("-c", f"{without}; import receiver.serve")
    assert shown.returncode == 1
    (line,) = shown.stderr.splitlines()
    assert line.startswith("receiver: gunicorn 27.")
    assert "has no SocketUnreader.max_body_chunk: pip install ." in line


def test_werkzeug_without_what_is_used_of_it_ends_the_start_in_one_line(tmp_path):
    without = (
        "from werkzeug.sansio.multipart import MultipartDecoder;"
        "del MultipartDecoder._last_partial_boundary_index"
    )
    shown = run("-c", f"{without}; import app", storage=tmp_path, writers="kazoo:secret")
    assert shown.returncode == 1
    *_, line = shown.stderr.splitlines()
    assert "Traceback" not in shown.stderr
    assert line.startswith("receiver: werkzeug 3.")
    assert line.endswith("has no MultipartDecoder._last_partial_boundary_index")


@pytest.mark.parametrize("path", ["", "ACCOUNT/"])
def test_setting_that_cannot_be_used_stops_the_start(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="KZR_STORAGE="):
        create_app({"STORAGE": str(tmp_path / "file" / path)})


@pytest.mark.parametrize(
    "name", ["a?b", "100%", "a%41b", "a#b", "a b;c&d", "\u00fcber", "a?mode=ro"]
)
def test_catalog_and_queue_lie_in_the_storages_folder_whatever_its_name(tmp_path, name):
    pytest.importorskip("sqlalchemy")
    folder = tmp_path / name
    app = create_app({"STORAGE": str(folder), "CATALOG": "yes", "CHECKSUMS": "yes"})
    app.extensions["receiver"].catalog.check()
    app.extensions["receiver"].catalog.close()
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert {".catalog.sqlite", ".queue.sqlite"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("setting", ["STORAGE", "CATALOG", "QUEUE"])
def test_url_whose_path_goes_on_after_a_question_mark_is_refused(tmp_path, setting):
    pytest.importorskip("sqlalchemy")
    settings = {"STORAGE": str(tmp_path / "recordings"), "CHECKSUMS": "yes"}
    with pytest.raises(SettingError, match=f"KZR_{setting}.*: write %3F for . in the path"):
        create_app(settings | {setting: f"sqlite:///{tmp_path}/a?b/file"})
    assert not (tmp_path / "a").exists()


def test_path_that_is_no_utf_8_has_no_url(tmp_path):
    pytest.importorskip("sqlalchemy")
    with pytest.raises(SettingError, match="KZR_QUEUE: the storage's path is not UTF-8"):
        create_app({"STORAGE": f"{tmp_path}/\udcff", "CHECKSUMS": "yes"})
