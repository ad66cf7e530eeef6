"""`kazoo-receiver`: the service's settings and user, and never a storage by mistake."""

import hashlib
import json
import os
import pwd
import signal
import subprocess

import pytest
from click.testing import CliRunner

from receiver.commands.service import variables
from receiver.shell import GROUPS, main
from support.clients import Client
from support.fronts import installed
from support.notes import MARKER
from support.ports import free_port
from support.shell import USER, shell
from support.waiting import wait_for

ABOUT = json.dumps(
    {
        "caller_id_number": "+15551234567",
        "call_id": "abc",
        "sha256": hashlib.sha256(b"audio").hexdigest(),
    }
)
LOOKING = ("holds", "verify", "purge", "reindex", "worker", "erase --caller +15551234567", "hold x")
QUEUED = "KZR_CHECKSUMS=yes", "KZR_KEEP_DAYS=365", "KZR_CATALOG=yes"


def test_commands_use_the_services_settings_and_say_which_storage(service):
    service.record(about=ABOUT)
    shown = service.run("erase", "--caller", "+15551234567", "--yes")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr.splitlines()[0] == f"storage: {service.storage}, as {USER}"
    assert "1 found, 0 failed" in shown.stderr
    assert [path.name for path in service.storage.iterdir()] == [MARKER]


@pytest.mark.parametrize("command", LOOKING)
def test_no_command_creates_a_storage(tmp_path, command):
    storage = tmp_path / "absent"
    settings = dict(line.split("=") for line in QUEUED)
    shown = shell(*command.split(), KZR_STORAGE=storage, **settings)
    assert shown.returncode == 1
    first, line = shown.stderr.splitlines()
    assert first == f"storage: {storage}, as root"
    assert line.startswith(f"Error: there is no storage {storage}: is it the right one, ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", LOOKING)
def test_no_command_of_flask_creates_a_storage(tmp_path, command):
    storage = tmp_path / "absent"
    settings = dict(line.split("=") for line in QUEUED)
    command = command.replace("worker", "jobs")
    shown = flask(*command.split(), KZR_STORAGE=str(storage), **settings)
    assert shown.returncode == 1
    (line,) = shown.stderr.splitlines()
    assert f"there is no storage {storage}" in line
    assert list(tmp_path.iterdir()) == []


def flask(*arguments: str, **environ: str):
    return subprocess.run(
        [installed() / ".venv/bin/flask", "--app", "app", *arguments],
        cwd=installed(),
        env={"PATH": os.environ["PATH"]} | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_database_without_tables_is_no_storage(tmp_path):
    file = tmp_path / "x.sqlite"
    file.touch()
    shown = shell("holds", KZR_STORAGE=f"sqlite:///{file}")
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[1].endswith("kazoo-receiver init makes what is missing")
    assert shell("init", KZR_STORAGE=f"sqlite:///{file}").returncode == 0
    assert shell("holds", KZR_STORAGE=f"sqlite:///{file}").returncode == 0


def test_what_root_runs_leaves_every_file_to_the_storages_owner(service):
    service.add(*QUEUED)
    service.record(about=ABOUT)
    assert (
        service.run("jobs").stderr.splitlines()[-1].startswith("Error: there is no queue of jobs")
    )
    assert not (service.storage / ".queue.sqlite").exists()
    service.make_queue()
    for command in ("reindex", "hold abc.mp3", "holds", "jobs", "verify", "purge", "jobs retry"):
        shown = service.run(*command.split())
        assert shown.returncode == 0, (command, shown.stderr)
    assert (service.storage / "abc.mp3.hold").exists()
    assert (service.storage / ".catalog.sqlite").exists()
    assert (service.storage / ".queue.sqlite").exists()
    assert service.owners() == {service.uid}


def test_copy_by_root_leaves_every_file_to_the_owner_of_its_target(service, tmp_path):
    service.record(about=ABOUT)
    target = service.folder / "target"
    target.mkdir()
    os.chown(target, pwd.getpwnam("daemon").pw_uid, pwd.getpwnam("daemon").pw_gid)
    service.storage.chmod(0o755)
    for path in service.storage.iterdir():
        path.chmod(0o644)
    shown = service.run("copy", service.storage, target)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == f"storage: {service.storage} to {target}, as daemon\n"
    assert {path.stat().st_uid for path in target.iterdir()} == {pwd.getpwnam("daemon").pw_uid}


@pytest.mark.parametrize("command", ["hold abc.mp3", "reindex", "jobs", "erase --call-id abc"])
def test_flask_as_root_refuses_another_users_storage_with_the_line_to_use(service, command):
    service.record(about=ABOUT)
    settings = dict(line.split("=") for line in QUEUED)
    shown = flask(*command.split(), KZR_STORAGE=str(service.storage), **settings)
    assert shown.returncode == 1
    (line,) = shown.stderr.splitlines()
    assert f"{service.storage} is {USER}'s" in line
    assert line.endswith("run kazoo-receiver in place of flask --app app")
    assert service.owners() == {service.uid}
    assert not (service.storage / ".queue.sqlite").exists()


def test_owner_has_no_more_than_its_own_groups_and_home(service):
    service.add("KZR_ON_STORED='/usr/bin/id'")
    code = (
        "import os; from receiver.commands.service import become_owner;"
        f"become_owner({str(service.storage)!r});"
        "print(os.getresuid(), os.getresgid(), os.getgroups(), os.environ['HOME'])"
    )
    shown = subprocess.run(
        [installed() / ".venv/bin/python", "-c", code],
        capture_output=True,
        text=True,
        cwd="/",
        check=True,
    ).stdout
    user = pwd.getpwnam(USER)
    uids, gids = (user.pw_uid,) * 3, (user.pw_gid,) * 3
    groups = os.getgrouplist(USER, user.pw_gid)
    assert shown == f"{uids} {gids} {groups} {user.pw_dir}\n"


def test_environment_wins_over_the_file(service, tmp_path):
    (tmp_path / MARKER).write_text("1234\n")
    shown = service.run("holds", KZR_STORAGE=tmp_path)
    assert shown.stderr == f"storage: {tmp_path}, as root\n"


def test_settings_without_a_storage_are_refused(service):
    service.write("KZR_WRITERS='kazoo:secret'")
    shown = service.run("holds")
    assert shown.returncode == 1
    assert shown.stderr == (
        f"Error: {service.settings} lacks KZR_STORAGE: add the one that the service has\n"
    )


def test_file_that_is_missing_or_wrong_is_named_in_one_line(service):
    shown = shell("--env", "/nowhere", "holds")
    assert (shown.returncode, shown.stderr) == (
        1,
        "Error: /nowhere: No such file or directory\n",
    )
    service.write("export KZR_STORAGE=/srv")
    assert service.run("holds").stderr == (
        f"Error: {service.settings}: export KZR_STORAGE is no variable: write NAME='VALUE'\n"
    )


def test_wrong_setting_ends_a_command_in_one_line(service):
    service.add("KZR_MIN_FREE=much")
    shown = service.run("holds")
    assert shown.returncode == 1
    assert shown.stderr.startswith("Error: KZR_MIN_FREE=much: expected a size")
    assert shown.stderr.count("\n") == 1


def verify_as(service, *user):
    """Run by a user that setpriv becomes, with the storage alone in the environment."""
    return subprocess.run(
        ["setpriv", *user, installed() / ".venv/bin/kazoo-receiver", "verify"],
        env={"PATH": os.environ["PATH"], "KZR_STORAGE": str(service.storage)},
        capture_output=True,
        text=True,
        cwd="/",
    )


def test_service_user_needs_no_file_where_the_environment_says_all(service):
    """As under systemd, which reads the file and then starts the service as its user."""
    service.record(about=ABOUT)
    shown = verify_as(service, f"--reuid={USER}", f"--regid={USER}", "--init-groups")
    assert (shown.returncode, shown.stderr) == (0, f"storage: {service.storage}, as {USER}\n")


def test_another_user_is_told_to_be_root(service):
    service.record(about=ABOUT)
    service.storage.chmod(0o750)
    shown = verify_as(service, "--reuid=nobody", "--clear-groups", "--regid=nogroup")
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[1:] == [
        f"Error: cannot look into {service.storage}: Permission denied: run this as root"
    ]


def test_check_needs_neither_settings_nor_storage(service):
    service.write("KZR_STORAGE=/nowhere")
    shown = service.run("check", "http://127.0.0.1:1/kzr")
    assert "storage" not in shown.stderr and "127.0.0.1" in shown.stdout


def test_init_makes_a_storage_and_says_to_whom_to_give_it(tmp_path):
    storage = tmp_path / "new"
    shown = shell("init", KZR_STORAGE=storage)
    assert shown.returncode == 0
    assert shown.stdout.splitlines() == [
        f"ready: {storage}",
        f"It is root's. Give it to the service's user: chown www-data: {storage}",
    ]
    assert storage.stat().st_mode & 0o777 == 0o750
    again = shell("init", KZR_STORAGE=storage)
    assert (again.returncode, again.stdout) == (0, f"ready: {storage}\n")


def test_init_makes_a_storage_also_where_a_start_may_not(tmp_path):
    storage = tmp_path / "new"
    shown = shell("init", KZR_STORAGE=storage, KZR_STORAGE_NEW="no")
    assert (shown.returncode, (storage / MARKER).exists()) == (0, True)


def test_init_is_not_ready_where_nothing_can_be_stored(tmp_path):
    shown = shell("init", KZR_STORAGE=tmp_path / "new", KZR_MIN_FREE="900000G")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "the disk is full: free some space or lower KZR_MIN_FREE" in shown.stderr


def test_serve_and_worker_by_root_are_the_storages_owners(service):
    service.add("KZR_CHECKSUMS=yes", "KZR_READERS='ann:secret'")
    program = installed() / ".venv" / "bin" / "kazoo-receiver"
    port = free_port()
    log = service.folder / "log"
    started = []
    with log.open("wb") as output:
        for command in (["serve", f"--bind=127.0.0.1:{port}"], ["worker", "--threads=1"]):
            started.append(
                subprocess.Popen(
                    [program, "--env", service.settings, *command],
                    stdout=output,
                    stderr=output,
                    cwd=os.path.expanduser("~"),
                )
            )
            wait_for(lambda: b"Booting worker" in log.read_bytes(), why=log.read_text())
    try:
        server = Client()
        server.port = port
        assert server.put("/kzr/call_recording_x.mp3", b"audio").status == 201
        wait_for(lambda: (service.storage / "x.mp3.json").exists())
        assert service.owners() == {service.uid}
        assert f"storage: {service.storage}; may write: anybody; may read: ann; on: " in (
            log.read_text()
        )
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.mark.parametrize("options", [[], ["--check-config"]])
def test_serve_with_a_wrong_setting_is_one_line(options):
    shown = shell("serve", *options, KZR_STORAGE="/dev/null/x")
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith("Error: KZR_STORAGE=/dev/null/x:")


def test_help_has_a_line_for_each_command():
    shown = shell("--help")
    assert shown.returncode == 0
    listed = [name for lines in GROUPS.values() for name in lines]
    assert sorted(listed) == sorted(main.commands)
    for lines in GROUPS.values():
        for name, line in lines.items():
            assert any(
                each.split() == [name, *line.split()] for each in shown.stdout.splitlines()
            ), name


def test_help_of_serve_shows_our_defaults():
    shown = shell("serve", "--help")
    assert shown.returncode == 0 and shown.stderr == ""
    told = " ".join(shown.stdout.split())
    assert shown.stdout.startswith("usage: kazoo-receiver serve [OPTIONS]\n")
    assert "worker threads for handling requests. [16]" in told
    assert "[receiver.gunicorn_worker.Worker]" in told


@pytest.mark.parametrize("value", ["0", "-1", "x", "", "1.5", "99999999999999999999", "²"])
@pytest.mark.parametrize("command", ["verify", "worker", "copy . ."])
def test_number_that_is_none_is_refused_in_one_line(command, value):
    shown = CliRunner().invoke(main, [*command.split(), "--threads", value])
    assert (shown.exit_code, shown.output) == (1, "Error: --threads is a number from 1 to 1000\n")


@pytest.mark.parametrize("option", ["--threads", "--workers"])
@pytest.mark.parametrize("value", ["0", "-1", "x"])
def test_server_of_none_is_refused_in_one_line(tmp_path, option, value):
    shown = shell("serve", f"--bind=127.0.0.1:{free_port()}", option, value, KZR_STORAGE=tmp_path)
    assert shown.returncode > 0
    *_, line = shown.stderr.splitlines()
    assert "rror: " in line and line.endswith(value if value != "x" else "'x'")
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize("option", ["--caller", "--number"])
def test_number_without_digits_is_refused_in_one_line(tmp_path, option):
    (tmp_path / MARKER).write_text("1234\n")
    shown = shell("erase", option, "Ann", KZR_STORAGE=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[1:] == ["Error: the number has to be one of digits"]


def test_copy_takes_a_password_from_the_settings_not_from_the_command_line(service):
    file = service.folder / "old" / "old.sqlite"
    file.parent.mkdir()
    os.chown(file.parent, service.uid, service.uid)
    file.touch()
    os.chown(file, service.uid, service.uid)
    assert shell("init", KZR_STORAGE=f"sqlite:///{file}").returncode == 0
    service.add(f"OLD='sqlite:///{file}'")
    shown = service.run("copy", "env:OLD", "env:KZR_STORAGE")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == f"storage: {file} to {service.storage}, as {USER}\n"


def test_copy_shows_no_password_and_names_a_variable_that_is_missing(service):
    shown = service.run("copy", "postgresql://kazoo:hidden@127.0.0.1:1/x?password=hidden2", "/tmp")
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[0] == "storage: postgresql://127.0.0.1:1/x to /tmp, as root"
    assert "hidden" not in shown.stderr
    assert service.run("copy", "env:NONE", "/tmp").stderr == (
        "Error: env:NONE: the environment has no such variable\n"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("A='b c'", "b c"),
        ('A="b c"', "b c"),
        ("A=b c  ", "b c"),
        ("  A = b", "b"),
        ("A=", ""),
        ("A='$x$y'", "$x$y"),
        ("A=$x$y", "$x$y"),
        (r'A="\$x\"\\\y"', r'$x"\\y'),
        (r"A='a\nb'", r"a\nb"),
        (r"A=a\ b\\", "a b\\"),
        ("A=a\\\nb", "ab"),
        ('A="a\\\nb"', "ab"),
        ("A='a\nb'", "a\nb"),
        ("A='a' 'b'", "ab"),
        ("A=b # no comment", "b # no comment"),
        ("A=b'c'", "b'c'"),
        ("#B=c\n;B=c\n\nnothing\nA=d", "d"),
        ("A=b=c", "b=c"),
        ("A=b\r", "b"),
        ("A=c\nA=d", "d"),
    ],
)
def test_file_is_read_as_systemd_reads_it(text, value):
    assert dict(variables(text + "\n")) == {"A": value}
    assert dict(variables(text)) == {"A": value}


@pytest.mark.parametrize("command", ["verify", "holds"])
def test_output_that_cannot_be_written_is_told_in_one_line(service, command):
    service.record(about=ABOUT)
    service.run("hold", "abc.mp3")
    with open("/dev/full", "wb") as full:
        shown = service.run(command, stdout=full)
    assert shown.returncode == 1
    line = "Error: the output cannot be written: No space left on device"
    assert shown.stderr.splitlines()[1:] == [line]


def test_python_that_only_root_can_read_is_told(service, monkeypatch):
    """As one of pyenv's in root's home: the owner would find no module any more."""
    from receiver.commands.service import become_owner
    from receiver.errors import SettingError

    readable = os.access
    monkeypatch.setattr(
        os, "access", lambda file, mode: file != os.__file__ and readable(file, mode)
    )
    for name in ("setuid", "setgid", "setgroups", "umask"):
        monkeypatch.setattr(os, name, lambda _: None)
    for name in ("HOME", "USER", "LOGNAME"):
        monkeypatch.setenv(name, "root")
    with pytest.raises(SettingError, match=f"www-data cannot read {os.path.dirname(os.__file__)}"):
        become_owner(str(service.storage))
