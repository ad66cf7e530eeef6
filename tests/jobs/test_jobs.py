"""Jobs from the upload to the worker: each recording's very bytes, once, and nothing silently."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from receiver.commands.jobs import NOTHING_TO_DO
from receiver.core.naming import RecordingName
from receiver.errors import NotStored
from receiver.jobs.event import Event, open_recording
from receiver.jobs.queue import TRIES
from receiver.storage import open_storage
from receiver.storage.paths import numbered
from support.paths import PROJECT
from support.queues import Log, drain, open_jobs
from support.storages import publish
from support.tracing import traced
from support.waiting import wait_for

NAME = RecordingName("A", "x", "mp3")


def flask(settings: dict[str, object], *command: str) -> subprocess.CompletedProcess[str]:
    environ = {f"KZR_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", *command],
        cwd=PROJECT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
    )


def start_alone(**settings: object) -> subprocess.CompletedProcess[str]:
    """Load the application as a server does."""
    environ = {f"KZR_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-c", "import app"],
        cwd=PROJECT,
        env=environ,
        capture_output=True,
        text=True,
    )


class TestVeryBytes:
    """A job is about bytes, whatever name they have by now."""

    def test_superseded_recording_is_found_under_its_new_name(self, storage, tmp_path):
        found = []

        def read(event: Event) -> str:
            path, recording = open_recording(storage, event)
            found.append((path, recording.file.read()))
            recording.close()
            return ""

        jobs = open_jobs(f"sqlite:///{tmp_path}/queue.sqlite", storage, read=read)
        for data in (b"one", b"two", b"three"):
            jobs.add(publish(storage, data, NAME))
        drain(jobs)
        jobs.queue.close()
        assert sorted(found) == [
            ("A/x.mp3", b"three"),
            ("A/x~1.mp3", b"one"),
            ("A/x~2.mp3", b"two"),
        ]

    def test_superseded_recording_is_found_whatever_numbers_are_missing(self, storage):
        for number in range(30):
            publish(storage, b"%d" % number, NAME)
        path = str(NAME)
        with closing(storage.open(numbered(path, 29))) as recording:
            event = Event(path, recording.etag, "created", 0.0)
        for number in range(1, 29):
            storage.delete(numbered(path, number))
        storage.delete(path)
        found, recording = open_recording(storage, event)
        with closing(recording):
            assert (found, recording.file.read()) == (numbered(path, 29), b"28")
        storage.delete(found)
        with pytest.raises(NotStored):
            open_recording(storage, event)

    def test_copy_of_the_storage_keeps_its_jobs(self, start, tmp_path, start_worker):
        """The queue lies in the folder, and its jobs find what was copied with it."""
        settings = {"storage": tmp_path / "recordings"}
        settings["on_stored"] = f"sh -c 'cat \"$RECORDING_PATH\" >> {tmp_path}/out'"
        receiver = start(**settings)
        receiver.put("/kzr/x.mp3", b"one,")
        receiver.put("/kzr/x.mp3", b"two,")
        receiver.stop()
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-a", settings["storage"], copy], check=True)
        shutil.rmtree(settings["storage"])
        worker = start_worker(**settings | {"storage": copy})
        wait_for(lambda: worker.log.count(" done") == 2)
        worker.stop()
        assert sorted((tmp_path / "out").read_text().split(",")) == ["", "one", "two"]

    def test_each_upload_of_one_name_has_its_jobs_however_many_come_at_once(
        self, backend, tmp_path
    ):
        settings = {"on_stored": "true"}
        if backend.url.startswith("s3:"):
            settings["queue"] = f"sqlite:///{tmp_path}/queue.sqlite"
        receiver = backend.receiver("--workers=2", "--threads=10", **settings)
        rounds = int(os.environ.get("JOBS_ROUNDS", "2"))
        try:
            with ThreadPoolExecutor(20) as pool:
                for number in range(rounds):

                    def put(which: int, number: int = number) -> int:
                        return receiver.put(f"/kzr/{number}.mp3", b"%02d" % which * 50).status

                    statuses = [*pool.map(put, range(20))]
                    assert {*statuses} <= {200, 201}, statuses
        finally:
            receiver.stop()
        storage = open_storage(backend.url)
        queue = settings.get("queue", backend.url)
        if "://" not in queue:
            queue = f"sqlite:///{queue}/.queue.sqlite"
        found = []

        def read(event: Event) -> str:
            with closing(open_recording(storage, event)[1]) as recording:
                found.append((event.path, recording.file.read()))
            return ""

        jobs = open_jobs(queue, storage, command=read)
        drain(jobs)
        jobs.queue.close()
        if engine := getattr(storage, "engine", None):
            engine.dispose()
        assert len(found) == len({*found}) == 20 * rounds


class TestSender:
    """An upload is only acknowledged once its jobs are in the queue."""

    @pytest.fixture
    def queue(self, tmp_path) -> Path:
        return tmp_path / "queues" / "queue.sqlite"

    @pytest.fixture
    def settings(self, queue, tmp_path) -> dict[str, object]:
        queue.parent.mkdir()
        return {
            "storage": tmp_path / "recordings",
            "queue": f"sqlite:///{queue}",
            "on_stored": "true",
            "metrics_allow": "127.0.0.1",
        }

    @pytest.fixture
    def receiver(self, start, settings):
        return start(**settings)

    def lose(self, queue: Path) -> None:
        """Let the queue fail: its place is gone."""
        queue.parent.rename(queue.parent.with_name("elsewhere"))

    def bring_back(self, queue: Path) -> None:
        queue.parent.with_name("elsewhere").rename(queue.parent)

    def jobs(self, queue: Path) -> list[str]:
        with closing(sqlite3.connect(queue)) as database:
            return [etag for (etag,) in database.execute("SELECT etag FROM kzr_jobs ORDER BY id")]

    def test_queue_that_is_down_is_a_503_and_the_retry_enqueues(self, receiver, queue):
        assert receiver.put("/kzr/one.mp3").status == 201
        self.lose(queue)
        answer = receiver.put("/kzr/two.mp3")
        assert answer.status == 503
        assert answer.line.startswith("the queue of jobs cannot be used")
        assert answer.headers["Retry-After"]
        self.bring_back(queue)
        assert receiver.put("/kzr/two.mp3").status == 200
        assert len(receiver.stored()) == 2
        assert len(self.jobs(queue)) == 2

    def test_two_of_one_name_that_failed_get_each_its_own(self, receiver, queue, tmp_path):
        self.lose(queue)
        for body in (b"A", b"B"):
            assert receiver.put("/kzr/x.mp3", body).status == 503
        self.bring_back(queue)
        for body in (b"A", b"B"):
            assert receiver.put("/kzr/x.mp3", body).status == 200
        assert len({*self.jobs(queue)}) == 2

    def test_condition_that_fails_for_our_own_503_is_answered_for_what_it_is(self, receiver, queue):
        only_new = {"If-None-Match": "*"}
        self.lose(queue)
        assert receiver.put("/kzr/x.mp3", b"A", headers=only_new).status == 503
        self.bring_back(queue)
        assert receiver.put("/kzr/x.mp3", b"B", headers=only_new).status == 412
        assert receiver.put("/kzr/x.mp3", b"A", headers=only_new).status == 200
        assert len(self.jobs(queue)) == 1
        assert receiver.put("/kzr/x.mp3", b"A", headers=only_new).status == 412

    def test_health_says_what_uploads_meet(self, receiver, queue):
        for path in ("/healthz", "/healthz/storage"):
            assert receiver.request("GET", path).status == 200
        self.lose(queue)
        for path in ("/healthz", "/healthz/storage"):
            answer = receiver.request("GET", path)
            assert (answer.status, answer.line[:24]) == (503, "the queue of jobs cannot")

    def test_figures_tell_what_waits_and_that_no_worker_was_started(
        self, receiver, settings, tmp_path, start_worker
    ):
        receiver.put("/kzr/x.mp3", b"A")
        figures = receiver.request("GET", "/metrics").text
        assert 'receiver_jobs_waiting{kind="command"} 1.0' in figures
        assert 'receiver_jobs_given_up{kind="command"} 0.0' in figures
        assert "receiver_jobs_worker_timestamp_seconds 0.0" in figures
        worker = start_worker(**settings)
        wait_for(lambda: " done" in worker.log)
        figures = receiver.request("GET", "/metrics").text
        worker.stop()
        assert 'receiver_jobs_waiting{kind="command"} 0.0' in figures
        assert "receiver_jobs_oldest_seconds 0.0" in figures
        line = next(
            line for line in figures.splitlines() if line.startswith("receiver_jobs_worker")
        )
        assert abs(float(line.split()[1]) - time.time()) < 60


class TestCost:
    """Jobs cost an upload one sync at most that is not its recording's."""

    def syncs(self, start, tmp_path: Path, **settings: object) -> int:
        receiver = start("--threads=1", **settings)
        for number in range(3):
            assert receiver.put(f"/kzr/{number}.mp3").status == 201
        log = tmp_path / f"strace-{receiver.port}"
        with traced(receiver, log, "-e", "trace=fsync,fdatasync"):
            assert receiver.put("/kzr/x.mp3").status == 201
        receiver.stop()
        return sum("sync(" in line for line in log.read_text().splitlines())

    def test_in_a_folder_it_is_one(self, start, tmp_path):
        without = self.syncs(start, tmp_path)
        jobs = {"on_stored": "true", "webhook_url": "https://example.com", "webhook_secret": "x"}
        assert self.syncs(start, tmp_path, **jobs) == without + 1

    def test_in_a_database_it_is_none(self, start, tmp_path):
        urls = [f"sqlite:///{tmp_path}/{name}.sqlite" for name in ("one", "two")]
        without = self.syncs(start, tmp_path, storage=urls[0])
        assert without > 0
        assert self.syncs(start, tmp_path, storage=urls[1], on_stored="true") == without


class TestDatabase:
    """A database is the queue of its own recordings: both are one commit."""

    def test_no_recording_without_its_jobs(self, tmp_path):
        url = f"sqlite:///{tmp_path}/recordings.sqlite"
        from receiver import create_app

        app = create_app({"STORAGE": url, "ON_STORED": "true"})
        client = app.test_client()
        assert client.put("/kzr/x.mp3", data=b"A").status_code == 201
        storage = app.extensions["receiver"].storage
        with closing(sqlite3.connect(tmp_path / "recordings.sqlite")) as database:
            assert database.execute("SELECT count(*) FROM kzr_jobs").fetchone() == (1,)
            database.execute("DROP TABLE kzr_jobs")
        assert client.put("/kzr/y.mp3", data=b"B").status_code == 500
        assert [each.path for each in storage.scan()] == ["x.mp3"]
        storage.engine.dispose()
        assert sorted(os.listdir(tmp_path)) == ["recordings.sqlite"]

    def test_same_bytes_again_after_a_purge_are_new_work(self, tmp_path):
        url = f"sqlite:///{tmp_path}/recordings.sqlite"
        storage, log = open_storage(url), Log()
        jobs = open_jobs(url, storage, log=log)
        for _ in range(2):
            jobs.add(publish(storage, b"A", NAME))
            drain(jobs)
            storage.delete(str(NAME))
        jobs.queue.close()
        storage.engine.dispose()
        assert len(log) == 2


class TestWorker:
    """The worker does the work, and `jobs` tells what is left of it."""

    def test_command_is_run_for_what_is_stored(self, start, tmp_path, start_worker):
        out = tmp_path / "out"
        settings = {
            "storage": tmp_path / "recordings",
            "on_stored": f"sh -c 'cp \"$RECORDING_PATH\" {out}'",
        }
        receiver = start(**settings)
        receiver.put("/kzr/x.mp3", b"audio")
        first, second = flask(settings, "jobs").stdout.splitlines()
        assert first == "1 waiting, 0 given up"
        assert second == "no worker has worked yet: start kazoo-receiver worker"
        worker = start_worker(**settings)
        wait_for(lambda: out.exists() and out.read_bytes() == b"audio")
        wait_for(lambda: "job command of x.mp3 done" in worker.log)
        result = flask(settings, "jobs")
        assert (result.stdout, result.returncode) == ("0 waiting, 0 given up\n", 0)
        assert worker.stop() == 0

    def test_what_was_given_up_is_listed_and_retried(self, storage):
        settings = {"storage": storage.root, "on_stored": "true"}
        jobs = open_jobs(f"sqlite:///{storage.root}/.queue.sqlite", storage, command=Log())
        jobs.add(publish(storage, b"A", NAME))
        with closing(sqlite3.connect(storage.root / ".queue.sqlite")) as database:
            database.execute("UPDATE kzr_jobs SET tries = ?", (TRIES - 1,))
            database.commit()
        worker = jobs.queue.register()
        (job,) = jobs.queue.take(worker, ["command"], 1)
        jobs.queue.fail(job, worker, "out of order")
        jobs.queue.close()
        result = flask(settings, "jobs")
        assert result.returncode == 1
        first, second = result.stdout.splitlines()
        assert first == "0 waiting, 1 given up"
        assert second.endswith(" command A/x.mp3: out of order")
        assert flask(settings, "jobs", "retry").stdout == "1 enqueued again\n"
        assert "1 waiting, 0 given up" in flask(settings, "jobs").stdout

    def test_jobs_of_a_kind_without_its_setting_wait_and_are_shown(
        self, start, tmp_path, start_worker
    ):
        settings = {"storage": tmp_path / "recordings", "on_stored": "true"}
        start(**settings).put("/kzr/x.mp3", b"A")
        storage = {"storage": settings["storage"]}
        worker = start_worker(**storage, checksums="yes")
        wait_for(lambda: "1 jobs of kind command wait: no setting asks for that" in worker.log)
        assert worker.stop() == 0
        told = "1 of kind command wait until the settings ask for that again"
        for without in (storage, storage | {"checksums": "yes"}):
            assert told in flask(without, "jobs").stdout
        worker = start_worker(**settings)
        wait_for(lambda: "job command of x.mp3 done" in worker.log)
        worker.stop()

    def test_a_command_that_fails_is_one_line_of_the_log(self, start, tmp_path, start_worker):
        settings = {"storage": tmp_path / "recordings", "on_stored": "false"}
        start(**settings).put("/kzr/x.mp3", b"A")
        worker = start_worker(**settings)
        wait_for(lambda: "failed" in worker.log)
        worker.stop()
        lines = [line for line in worker.log.splitlines() if not line.startswith("storage: ")]
        assert lines == ["WARNING job command of x.mp3 failed: exit status 1"]

    def test_worker_with_nothing_to_do_says_so(self, tmp_path, start_worker):
        open_storage(str(tmp_path / "recordings"))
        worker = start_worker(storage=tmp_path / "recordings")
        assert worker.process.wait(20) == 1
        assert worker.log.endswith(f"{NOTHING_TO_DO}; or KZR_KEEP_DAYS\n")

    def test_queue_that_is_not_there_is_told_and_not_made(self, storage):
        result = flask({"storage": storage.root, "on_stored": "true"}, "jobs")
        assert result.returncode == 1
        assert "Error: there is no queue of jobs in" in result.stderr
        assert not (storage.root / ".queue.sqlite").exists()

    def test_worker_that_is_told_to_stop_lives_until_its_jobs_have_ended(
        self, start, tmp_path, start_worker
    ):
        """Another worker would do them a second time."""
        settings = {
            "storage": tmp_path / "recordings",
            "on_stored": f"sh -c 'echo >> {tmp_path}/begun; sleep 6; echo >> {tmp_path}/ended'",
        }
        start(**settings).put("/kzr/x.mp3", b"A")
        (tmp_path / "shift").write_text("0")
        worker = start_worker(tmp_path / "shift", **settings)
        wait_for(lambda: (tmp_path / "begun").exists())
        other = start_worker(tmp_path / "shift", **settings)
        assert worker.stop() == 0
        assert other.stop() == 0
        assert (tmp_path / "begun").read_text() == (tmp_path / "ended").read_text() == "\n"

    def test_what_runs_at_a_stop_is_finished(self, start, tmp_path, start_worker):
        settings = {
            "storage": tmp_path / "recordings",
            "on_stored": f"sh -c 'touch {tmp_path}/begun; sleep 1; touch {tmp_path}/ended'",
        }
        start(**settings).put("/kzr/x.mp3", b"A")
        worker = start_worker(**settings)
        wait_for(lambda: (tmp_path / "begun").exists())
        assert worker.stop() == 0
        assert (tmp_path / "ended").exists()
        assert flask(settings, "jobs").stdout == "0 waiting, 0 given up\n"


class TestStart:
    """What a start says of a queue."""

    @pytest.mark.parametrize("value", ["queue.sqlite", "http://x", "sqlite:////dev/null/x"])
    def test_wrong_queue_stops_the_start(self, value, tmp_path):
        result = start_alone(queue=value, on_stored="true", storage=tmp_path)
        assert result.returncode == 1
        (line,) = (line for line in result.stderr.splitlines() if ": made a new" not in line)
        assert line.startswith("receiver: KZR_QUEUE")

    @pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
    def test_redis_stops_the_start_with_the_remedy(self, scheme, tmp_path):
        result = start_alone(queue=f"{scheme}://10.0.0.9", on_stored="true", storage=tmp_path)
        assert (result.returncode, result.stderr) == (
            1,
            "receiver: KZR_QUEUE=...: Redis is no longer used: leave it out, for a queue in the "
            "storage, or name a database as postgresql://USER:PASSWORD@HOST/DATABASE\n",
        )

    def test_nothing_of_it_is_loaded_where_nothing_is_configured(self, tmp_path):
        code = (
            "import sys, receiver; receiver.create_app(); "
            "print(sorted({'sqlalchemy', 'obstore', 'prometheus_client', 'tinytag', "
            "'urllib3', 'receiver.jobs', 'receiver.catalog'} & {*sys.modules}))"
        )
        environ = {"KZR_STORAGE": str(tmp_path / "recordings")}
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=PROJECT, env=environ, capture_output=True, text=True
        )
        assert result.stdout == "[]\n", result.stderr

    def test_data_is_data(self):
        """Nothing that is read is a program: no pickle, by whatever name."""
        code = "\n".join(path.read_text() for path in (PROJECT / "receiver").rglob("*.py"))
        for word in ("import pickle", "import marshal", "import shelve", "import huey"):
            assert word not in code


class TestEarlier:
    """Queues of the releases that used huey."""

    DDL = (
        "create table kv (queue text not null, key text not null, value blob not null)",
        "create table schedule (id integer primary key, queue text, data blob, timestamp real)",
        "create table task (id integer primary key, queue text, data blob, priority real)",
        "create table taken (data blob not null, queue text not null)",
    )

    def make(self, path: Path, *statements: str) -> None:
        path.parent.mkdir(exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            for statement in (*self.DDL, *statements):
                database.execute(statement)
            database.commit()
        Path(f"{path}-worker").touch()

    @pytest.mark.parametrize(
        "waits",
        [
            "insert into task (queue, data) values ('receiver', x'80')",
            "insert into schedule (queue, data, timestamp) values ('receiver', x'80', 1)",
            "insert into taken values (x'80', 'receiver')",
        ],
    )
    @pytest.mark.parametrize("kind", ["receiver", "worker", "jobs"])
    def test_one_with_jobs_stops_the_start(self, storage, waits, kind, start_worker):
        path = storage.root / ".queue.sqlite"
        self.make(path, waits)
        settings = {"storage": storage.root, "on_stored": "true"}
        if kind == "receiver":
            result = start_alone(**settings)
            line = result.stderr.splitlines()[-1]
        elif kind == "jobs":
            result = flask(settings, "jobs")
            assert result.returncode == 1
            line = result.stderr.splitlines()[-1]
        else:
            worker = start_worker(**settings)
            assert worker.process.wait(20) == 1
            line = worker.log.splitlines()[-1]
        assert f"{path} holds 1 jobs of an earlier release: let its worker do them" in line
        assert path.exists()

    def test_an_empty_one_makes_room(self, storage):
        path = storage.root / ".queue.sqlite"
        self.make(
            path,
            "insert into task (queue, data) values ('receiver', 'x receiver.jobs.hourly x')",
            "insert into kv values ('receiver', 'failed:command:1', '{}')",
        )
        result = start_alone(storage=storage.root, on_stored="true")
        assert result.returncode == 0, result.stderr
        assert f"{path}: 1 jobs that were given up are forgotten" in result.stderr
        assert not Path(f"{path}-worker").exists()
        with closing(sqlite3.connect(path)) as database:
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        assert "kzr_jobs" in names and "task" not in names

    def test_one_beside_a_database_stops_the_start_too(self, tmp_path):
        self.make(tmp_path / "queue.sqlite", "insert into taken values (x'80', 'receiver')")
        result = subprocess.run(
            [sys.executable, "-c", "import receiver; receiver.create_app()"],
            cwd=tmp_path,
            env={
                "KZR_STORAGE": f"sqlite:///{tmp_path}/recordings.sqlite",
                "KZR_ON_STORED": "true",
                "PYTHONPATH": str(PROJECT),
            },
            capture_output=True,
            text=True,
        )
        assert "queue.sqlite holds 1 jobs of an earlier release" in result.stderr
