"""Jobs: none is lost, none is done twice for the same bytes, and none fails silently."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("huey")

from receiver.core.naming import RecordingName
from receiver.errors import NotStored, SettingError, StorageUnavailable
from receiver.jobs.event import Event, open_recording
from receiver.jobs.queue import open_queue
from receiver.jobs.work import FIRST_PAUSE, KEPT, PAUSE_FACTOR, RETRIES, Jobs
from receiver.parts import Storage
from receiver.storage import open_storage
from receiver.storage.paths import numbered
from support.paths import PROJECT
from support.queues import Redis, Worker
from support.storages import parts_of, publish
from support.waiting import wait_for

NAME = RecordingName("A", "x", "mp3")


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "redis"])
def url(request, tmp_path) -> str:
    """An empty queue of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.sqlite"
    return request.getfixturevalue("redis").new_url()


class Log(list):
    """A kind of work that takes note of what it was called with, and fails when it is told to."""

    fails = False

    def __call__(self, event: Event) -> str:
        self.append(event.path)
        if self.fails:
            raise ValueError("out of order")
        return "noted"


def drain(jobs: Jobs) -> int:
    """Do all that is in the queue now, as the worker's threads do; return how much it was."""
    count = 0
    jobs.queue.storage.blocking = False
    jobs.queue.storage.read_timeout = 0.01
    while task := jobs.queue.dequeue():
        jobs.queue.execute(task)
        count += 1
    return count


@pytest.fixture
def open_jobs(url, storage):
    """Open the queue as another process would."""
    opened = []

    def open_another(**kinds: Log) -> Jobs:
        opened.append(Jobs(url, parts_of(storage), kinds))
        return opened[-1]

    yield open_another
    for jobs in opened:
        close = getattr(jobs.queue.storage, "close", None) or jobs.queue.storage.conn.close
        close()


def naive_utc_now() -> datetime:
    """The time as huey has it."""
    return datetime.now(UTC).replace(tzinfo=None)


@pytest.fixture
def log() -> Log:
    return Log()


class TestWork:
    """Each kind of work is done once for each recording."""

    def test_stored_recording_is_worked_on(self, open_jobs, storage):
        one, two = Log(), Log()
        jobs = open_jobs(one=one, two=two)
        jobs.add(publish(storage, b"audio", NAME))
        assert jobs.waiting() == 1
        drain(jobs)
        assert (one, two) == (["A/x.mp3"], ["A/x.mp3"])
        assert jobs.waiting() == 0

    def test_tasks_keep_the_names_by_which_queues_of_earlier_releases_know_them(self, open_jobs):
        jobs = open_jobs(one=Log())
        known = jobs.queue._registry._registry
        assert {"receiver.jobs.stored", "receiver.jobs.job", "receiver.jobs.hourly"} <= {*known}

    @pytest.mark.parametrize("work_begins", ["between the retries", "after them"])
    def test_retry_of_the_sender_is_not_worked_on_again(self, open_jobs, storage, log, work_begins):
        jobs = open_jobs(log=log)
        for _ in range(3):
            jobs.add(publish(storage, b"audio", NAME))
            if work_begins == "between the retries":
                drain(jobs)
        drain(jobs)
        assert len(log) == 1

    def test_retries_that_are_worked_on_at_the_same_time_are_one(self, open_jobs, storage, log):
        jobs = open_jobs(log=log)
        for number in range(10):
            stored = publish(storage, b"audio", RecordingName("A", str(number), "mp3"))
            for _ in range(4):
                jobs.add(stored)
            tasks = [jobs.queue.dequeue() for _ in range(4)]
            barrier = threading.Barrier(4)

            def execute(task, barrier=barrier):
                barrier.wait()
                jobs.queue.execute(task)

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(execute, tasks))
            assert drain(jobs) == 1
        assert len(log) == 10

    def test_what_a_crash_cut_off_before_its_job_was_enqueued_is_done(
        self, open_jobs, storage, log, monkeypatch
    ):
        jobs = open_jobs(log=log)
        jobs.add(publish(storage, b"audio", NAME))
        task = jobs.queue.dequeue()
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(jobs, "_run", lambda *arguments: sys.exit())
            jobs._enqueue_each(*task.args, task=task)
        jobs.queue.execute(task)  # as the next worker does
        drain(jobs)
        assert log == ["A/x.mp3"]

    def test_other_bytes_of_the_same_name_are_worked_on(self, open_jobs, storage, log):
        jobs = open_jobs(log=log)
        for data in (b"one", b"two", b"one"):
            jobs.add(publish(storage, data, NAME))
            drain(jobs)
        assert len(log) == 2

    def test_superseded_recording_is_found_under_its_new_name(self, open_jobs, storage):
        found = []

        def read(event: Event) -> str:
            path, recording = open_recording(storage, event)
            found.append((path, recording.file.read()))
            recording.close()
            return ""

        jobs = open_jobs(read=read)
        for data in (b"one", b"two", b"three"):
            jobs.add(publish(storage, data, NAME))
        drain(jobs)
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

    def test_what_was_done_is_forgotten_after_a_while(self, open_jobs, storage, log, monkeypatch):
        jobs = open_jobs(log=log)
        jobs.add(publish(storage, b"audio", NAME))
        drain(jobs)
        jobs.forget_old()
        assert len(jobs.queue.storage.result_items()) == 2
        later = time.time() + KEPT + 1
        monkeypatch.setattr("receiver.jobs.work.time.time", lambda: later)
        jobs.forget_old()
        assert len(jobs.queue.storage.result_items()) == 0


class TestFailure:
    """What fails is tried again, with growing pauses, and then listed."""

    def give_up(self, jobs: Jobs, storage: Storage) -> list[float]:
        """Let a job fail until it is given up; return the pauses between its tries."""
        jobs.add(publish(storage, b"audio", NAME))
        drain(jobs)
        pauses = []
        while jobs.waiting():
            (task,) = jobs.queue.scheduled()
            pauses.append((task.eta - naive_utc_now()).total_seconds())
            jobs.queue.storage.read_schedule(task.eta + timedelta(days=1))
            self.run_due(jobs)
        return pauses

    def run_due(self, jobs: Jobs) -> None:
        jobs.queue.storage.blocking = False
        jobs.queue.storage.read_timeout = 0.01
        while task := jobs.queue.dequeue():
            task.eta = None  # its time has come
            jobs.queue.execute(task)

    def test_pauses_grow_until_it_is_given_up(self, open_jobs, storage, log):
        log.fails = True
        jobs = open_jobs(log=log)
        pauses = self.give_up(jobs, storage)
        assert len(log) == RETRIES + 1
        wanted = [FIRST_PAUSE * PAUSE_FACTOR**n for n in range(RETRIES)]
        assert pauses == pytest.approx(wanted, abs=2)
        (failure,) = jobs.failures()
        assert (failure.kind, failure.event.path) == ("log", "A/x.mp3")
        assert failure.reason == "out of order"

    def test_what_was_given_up_can_be_tried_again(self, open_jobs, storage, log):
        log.fails = True
        jobs = open_jobs(log=log)
        self.give_up(jobs, storage)
        log.fails = False
        for failure in jobs.failures():
            jobs.retry(failure)
        drain(jobs)
        assert list(jobs.failures()) == []
        assert len(log) == RETRIES + 2

    def test_retry_of_the_sender_does_not_try_it_again(self, open_jobs, storage, log):
        log.fails = True
        jobs = open_jobs(log=log)
        self.give_up(jobs, storage)
        jobs.add(publish(storage, b"audio", NAME))
        drain(jobs)
        assert len(log) == RETRIES + 1

    def test_failure_of_one_kind_does_not_touch_another(self, open_jobs, storage, log):
        log.fails = True
        other = Log()
        jobs = open_jobs(log=log, other=other)
        self.give_up(jobs, storage)
        assert len(other) == 1


class TestCrash:
    """A job that a worker had taken when it died is done by the next."""

    def test_job_of_a_dead_worker_is_done_again(self, open_jobs, storage, log, request):
        jobs = open_jobs(log=log)
        jobs.add(publish(storage, b"audio", NAME))
        jobs.queue.storage.start()
        assert jobs.queue.dequeue()  # and no more is heard of it
        self.die(jobs)
        other = open_jobs(log=log)
        self.revive(other)
        drain(other)
        assert log == ["A/x.mp3"]
        self.die(other)
        third = open_jobs(log=log)
        self.revive(third)
        assert drain(third) == 0

    def die(self, jobs: Jobs) -> None:
        storage = jobs.queue.storage
        if hasattr(storage, "taken_key"):
            storage.conn.delete(f"{storage.taken_key(storage.worker)}.alive")  # as time does
        else:
            storage.release()

    def revive(self, jobs: Jobs) -> None:
        jobs.queue.storage.start()
        jobs.queue.storage.read_schedule(datetime.now())

    def test_job_that_waits_to_be_retried_is_never_nowhere(self, open_jobs, storage, log):
        """It moves from one list to the other in one step."""
        log.fails = True
        jobs = open_jobs(log=log)
        jobs.add(publish(storage, b"audio", NAME))
        drain(jobs)
        assert jobs.waiting() == 1
        assert jobs.queue.storage.read_schedule(datetime.now() + timedelta(days=1)) == []
        assert jobs.queue.storage.queue_size() == 1
        assert jobs.waiting() == 1

    def test_one_worker_at_a_time_uses_a_queue_in_a_file(self, tmp_path):
        url = f"sqlite:///{tmp_path}/queue.sqlite"
        with closing(open_queue(url).storage) as one, closing(open_queue(url).storage) as other:
            one.start()
            with pytest.raises(SettingError, match="another worker uses"):
                other.start()
            one.release()
            other.start()
            other.release()


class TestWorker:
    """`python -m receiver.jobs` does the work, and `flask jobs` tells what is left of it."""

    def flask(self, settings: dict[str, object], *command: str) -> subprocess.CompletedProcess[str]:
        environ = {f"KZR_{name.upper()}": str(value) for name, value in settings.items()}
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app", *command],
            cwd=PROJECT,
            env=environ,
            capture_output=True,
            text=True,
        )

    def test_command_is_run_for_what_is_stored(self, start, tmp_path, url):
        out = tmp_path / "out"
        settings = {
            "storage": tmp_path / "recordings",
            "queue": url,
            "on_stored": f"sh -c 'cp \"$RECORDING_PATH\" {out}'",
        }
        receiver = start(**settings)
        receiver.put("/kzr/x.mp3", b"audio")
        assert "1 waiting, 0 given up" in self.flask(settings, "jobs").stdout
        worker = Worker(tmp_path, **settings)
        wait_for(lambda: out.exists() and out.read_bytes() == b"audio")
        wait_for(lambda: "job command of x.mp3 done" in worker.log)
        result = self.flask(settings, "jobs")
        assert (result.stdout, result.returncode) == ("0 waiting, 0 given up\n", 0)
        assert worker.stop() == 0

    def test_what_was_given_up_is_listed_and_retried(self, open_jobs, storage, url):
        settings = {"storage": storage.root, "queue": url, "on_stored": "true"}
        fails = Log()
        fails.fails = True
        TestFailure().give_up(open_jobs(command=fails), storage)
        result = self.flask(settings, "jobs")
        assert result.returncode == 1
        first, second = result.stdout.splitlines()
        assert first == "0 waiting, 1 given up"
        assert second.endswith(" command A/x.mp3: out of order")
        assert self.flask(settings, "jobs", "retry").stdout == "1 enqueued again\n"
        assert "1 waiting, 0 given up" in self.flask(settings, "jobs").stdout

    def test_worker_with_nothing_to_do_says_so(self, tmp_path):
        open_storage(str(tmp_path / "recordings"))
        worker = Worker(tmp_path, storage=tmp_path / "recordings")
        assert worker.process.wait(20) == 1
        assert worker.log.endswith("nothing is to be done after storing: see KZR_ON_STORED\n")

    def test_redis_that_may_lose_jobs_is_told(self, redis, caplog):
        queue = open_queue(redis.new_url())
        queue.storage.warn()
        assert caplog.messages == []
        queue.storage.conn.config_set("appendfsync", "everysec")
        try:
            queue.storage.warn()
        finally:
            queue.storage.conn.config_set("appendfsync", "always")
            queue.storage.conn.close()
        (message,) = caplog.messages
        assert message == "Redis may lose jobs: set appendonly yes and appendfsync always"


class TestReceiver:
    """An upload is only acknowledged once its jobs are in the queue."""

    def test_queue_that_is_down_is_a_503_and_the_retry_enqueues(self, start, redis):
        receiver = start(queue=redis.new_url(), on_stored="true")
        assert receiver.put("/kzr/one.mp3").status == 201
        redis.stop()
        try:
            answer = receiver.put("/kzr/two.mp3")
            assert answer.status == 503
            assert answer.line.startswith("the queue of jobs cannot be reached")
            assert answer.headers["Retry-After"]
        finally:
            redis.start()
        assert receiver.put("/kzr/two.mp3").status == 200
        assert len(receiver.stored()) == 2

    @pytest.mark.parametrize("value", ["queue.sqlite", "http://x", "sqlite:////dev/null/x"])
    def test_wrong_queue_stops_the_start(self, value, tmp_path):
        environ = {"KZR_QUEUE": value, "KZR_ON_STORED": "true", "KZR_STORAGE": str(tmp_path)}
        result = subprocess.run(
            [sys.executable, "-c", "import app"],
            cwd=PROJECT,
            env=environ,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        (line,) = (line for line in result.stderr.splitlines() if ": made a new" not in line)
        assert line.startswith("receiver: KZR_QUEUE")

    def test_nothing_of_it_is_loaded_where_nothing_is_configured(self, tmp_path):
        code = (
            "import sys, receiver; receiver.create_app(); "
            "print(sorted({'huey', 'sqlalchemy', 'obstore', 'prometheus_client', 'tinytag', "
            "'urllib3', 'receiver.jobs', 'receiver.catalog'} & {*sys.modules}))"
        )
        environ = {"KZR_STORAGE": str(tmp_path / "recordings")}
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=PROJECT, env=environ, capture_output=True, text=True
        )
        assert result.stdout == "[]\n", result.stderr


def test_queue_that_cannot_be_reached_is_told(storage, tmp_path):
    jobs = Jobs("redis://127.0.0.1:9/0", parts_of(storage), {})
    with pytest.raises(StorageUnavailable, match="the queue of jobs cannot be reached"):
        jobs.add(publish(storage, b"audio", NAME))
    jobs.queue.storage.conn.close()
