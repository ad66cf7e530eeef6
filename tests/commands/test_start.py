"""The start: what it says, and what it refuses in one line."""

import os
import subprocess
import sys

import pytest
from werkzeug.security import generate_password_hash

from receiver import config, create_app
from receiver.errors import SettingError
from support.notes import MARKER
from support.paths import PROJECT

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
SQL = ("sqlalchemy",)
WITHOUT = [
    ("CATALOG", "yes", SQL, "catalog"),
    ("CATALOG", "yes", ("tinytag",), "catalog"),
    ("CATALOG", "postgresql://x/y", ("psycopg",), "postgresql"),
    ("CATALOG", "mysql://x/y", ("pymysql",), "mysql"),
    ("METRICS_ALLOW", "127.0.0.1", ("prometheus_client",), "metrics"),
    ("CHECKSUMS", "yes", SQL, "jobs"),
    ("ON_STORED", "/bin/true", SQL, "jobs"),
    ("WEBHOOK_URL", "https://example.com/", SQL, "jobs"),
    ("TRANSCRIBE_URL", "http://127.0.0.1/", SQL, "jobs"),
    ("KEEP_DAYS", "365", SQL, "jobs"),
    ("STORAGE", "s3://bucket", ("obstore",), "s3"),
    ("STORAGE", "gs://bucket", ("obstore",), "s3"),
    ("STORAGE", "az://bucket", ("obstore",), "s3"),
    ("STORAGE", "sqlite:////tmp/x", SQL, "sqlite"),
    ("STORAGE", "postgresql://x/y", SQL, "postgresql"),
    ("STORAGE", "postgresql://x/y", ("psycopg",), "postgresql"),
    ("STORAGE", "mysql://x/y", SQL, "mysql"),
    ("STORAGE", "mariadb://x/y", ("pymysql",), "mysql"),
]
SERVE, WORK = "import app", "from receiver.shell import main; main(['worker'])"


@pytest.mark.parametrize("code", [SERVE, WORK])
@pytest.mark.parametrize(("name", "value", "missing", "extra"), WITHOUT)
def test_setting_whose_extra_is_not_installed_names_it_in_one_line(
    tmp_path, name, value, missing, extra, code
):
    (tmp_path / MARKER).write_text("1234\n")  # so that no line tells of a new storage
    settings = {"KZR_STORAGE": str(tmp_path), f"KZR_{name}": value}
    if code == WORK and (name == "STORAGE" and "sqlite" in value):
        settings["KZR_STORAGE"] = f"sqlite:///{tmp_path}"  # that exists
    if code == WORK and name in ("STORAGE", "CATALOG", "METRICS_ALLOW"):
        settings["KZR_ON_STORED"] = "/bin/true"
    if code == WORK and name == "STORAGE" and missing == SQL:
        name, extra = "ON_STORED", "jobs"  # which is looked for first
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules |= dict.fromkeys({missing}); {code}"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "KZR_QUEUE": f"sqlite:///{tmp_path}/q"} | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 1, shown.stderr
    (line,) = [line for line in shown.stderr.splitlines() if not line.startswith("storage: ")]
    assert f"KZR_{name}" in line and missing[0] in line
    assert line.endswith(f"pip install '.[{extra}]'")


@pytest.mark.parametrize("name", ["WRITERS", "READERS"])
@pytest.mark.parametrize("text", ["kazoo:a,other:b", "kazoo:a, other:b", "kazoo:a,"])
def test_comma_between_credentials_is_refused(name, text):
    with pytest.raises(SettingError) as error:
        config.load({name: text})
    assert str(error.value) == (
        f"KZR_{name}=...: a comma separates nothing and may be in no secret: use spaces"
    )


def test_comma_between_tokens_is_refused():
    with pytest.raises(SettingError, match="use spaces"):
        config.load({"WRITE_TOKENS": "one,two"})


@pytest.mark.parametrize("method", ["scrypt", "pbkdf2"])
def test_whole_hash_is_taken_and_what_a_shell_leaves_of_it_is_refused(method):
    whole = generate_password_hash("secret", method)
    assert config.load({"WRITERS": f"kazoo:{whole}"})["WRITERS"] == {"kazoo": whole}
    for name in ("WRITERS", "READERS"):
        command = ["sh", "-c", f"echo kazoo:{whole}"]  # as an envvars without quotes
        cut = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert "$" not in cut
        with pytest.raises(SettingError) as error:
            config.load({name: cut})
        assert str(error.value) == (
            f"KZR_{name}=...: the hash of kazoo is not whole: a shell takes its $ for variables, "
            "so put the value into single quotes"
        )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "may write: anybody; may read: nobody; on: nothing more"),
        (
            {"WRITERS": "kazoo:hidden fs:hidden", "READERS": "ann:hidden"},
            "may write: kazoo, fs; may read: ann; on: nothing more",
        ),
        (
            {"WRITE_TOKENS": "hidden hidden2", "ALLOW_FROM": "10.0.0.0/8 ::1"},
            "may write: whoever has a token from 10.0.0.0/8 ::1/128; "
            "may read: nobody; on: nothing more",
        ),
        (
            {"ALLOW_FROM": "10.0.0.0/8", "METRICS_ALLOW": "::1", "CATALOG": "yes"},
            "may write: from 10.0.0.0/8; may read: nobody; on: KZR_CATALOG, KZR_METRICS_ALLOW",
        ),
    ],
)
def test_start_says_where_it_stores_who_may_and_what_is_on(
    tmp_path, caplog, monkeypatch, settings, told
):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))  # and not for later tests
    create_app({"STORAGE": str(tmp_path)} | settings)
    lines = [line for line in caplog.messages if line.startswith("storage: ")]
    assert lines == [f"storage: {tmp_path}; {told}"]
    assert "hidden" not in caplog.text


def test_start_shows_no_password_of_a_storage(tmp_path, monkeypatch):
    from receiver.storage.existing import without_password

    assert (
        without_password("postgresql://kazoo:p@ss?w@10.0.0.9/x?sslkey=y")
        == "postgresql://10.0.0.9/x"
    )
    assert without_password("s3://bucket/folder") == "s3://bucket/folder"
    assert without_password("sqlite:////srv/x.sqlite") == "/srv/x.sqlite"


@pytest.mark.parametrize("path", ["/", "/kzr", "/kzr/", "/browse/", "/?x=y"])
def test_browser_is_told_what_this_is_and_what_to_set(tmp_path, path):
    client = create_app({"STORAGE": str(tmp_path)}).test_client()
    answer = client.get(path, headers=BROWSER)
    assert (answer.status_code, answer.mimetype) == (404, "text/plain")
    assert answer.text == (
        "this is a receiver of Kazoo's call recordings, which come by PUT; to find them here, "
        "set KZR_CATALOG=yes and KZR_READERS\n"
    )


def test_browser_is_shown_the_way_to_the_page(tmp_path):
    client = create_app({"STORAGE": str(tmp_path), "CATALOG": "yes"}).test_client()
    answer = client.get("/", headers=BROWSER)
    assert answer.status_code == 404 and answer.text.endswith("find them at /browse/\n")


@pytest.mark.parametrize("headers", [{}, {"Accept": "*/*"}])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_whoever_is_no_browser_is_answered_as_before(tmp_path, method, headers):
    client = create_app({"STORAGE": str(tmp_path)}).test_client()
    answer = client.open("/kzr/", method=method, headers=headers)
    assert answer.status_code == 400 and "storage plan" in answer.text
    answer = client.put("/", headers=BROWSER)
    assert answer.status_code == 400 and "storage plan" in answer.text


def test_help_shows_our_defaults():
    shown = subprocess.run(
        [sys.executable, PROJECT / "app.py", "--help"], capture_output=True, text=True, timeout=60
    )
    told = " ".join(shown.stdout.split())
    for default in (
        "socket to bind. [127.0.0.1:8000]",
        f"worker processes for handling requests. [{max(2, os.cpu_count())}]",
        "worker threads for handling requests. [16]",
        "[receiver.gunicorn_worker.Worker]",
        "graceful workers restart in seconds. [120]",
        "HTTP request line in bytes. [16380]",
        "[65]",
    ):
        assert default in told
