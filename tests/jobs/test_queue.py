"""The queue: none of its jobs is lost, and none is done twice for the same bytes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa

pytest.importorskip("sqlalchemy")

from receiver.core.naming import RecordingName
from receiver.errors import StorageUnavailable
from receiver.jobs import queue as queues
from receiver.jobs.queue import FIRST_PAUSE, KEPT, PAUSE_FACTOR, STEP, TRIES, Lost, Queue
from receiver.jobs.tables import jobs as table
from receiver.jobs.work import Jobs
from receiver.jobs.worker import BEAT, LEASE, Silences
from receiver.parts import Outcome, Stored
from support.queues import Log, drain
from support.queues import open_jobs as open_at
from support.storages import publish

NAME = RecordingName("A", "x", "mp3")
DAY = 24 * 60 * 60


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request, tmp_path) -> str:
    """An empty queue in each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.sqlite"
    return request.getfixturevalue(request.param).new_url()


@pytest.fixture
def open_jobs(url, storage):
    """Open the queue as another process would."""
    opened = []

    def open_another(**kinds: Log) -> Jobs:
        opened.append(open_at(url, storage, **kinds))
        return opened[-1]

    yield open_another
    for jobs in opened:
        jobs.queue.close()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def clock(monkeypatch):
    """Set the database's clock, by seconds."""
    real, shift = queues.now, [0.0]
    monkeypatch.setattr(queues, "now", lambda connection: real(connection) + shift[0])

    def set_by(seconds: float) -> None:
        shift[0] += seconds

    return set_by


def waiting(jobs: Jobs) -> int:
    return sum(jobs.backlog().waiting.values())


class TestOnce:
    """Each kind of work is done once for each recording."""

    def test_stored_recording_is_worked_on(self, open_jobs, storage):
        one, two = Log(), Log()
        jobs = open_jobs(one=one, two=two)
        jobs.add(publish(storage, b"audio", NAME))
        assert waiting(jobs) == 2
        drain(jobs)
        assert (one, two) == (["A/x.mp3"], ["A/x.mp3"])
        assert waiting(jobs) == 0

    @pytest.mark.parametrize("work_begins", ["between the retries", "after them"])
    def test_retry_of_the_sender_is_not_worked_on_again(self, open_jobs, storage, log, work_begins):
        jobs = open_jobs(log=log)
        for _ in range(3):
            jobs.add(publish(storage, b"audio", NAME))
            if work_begins == "between the retries":
                drain(jobs)
        drain(jobs)
        assert len(log) == 1

    def test_retries_at_the_same_time_are_one(self, open_jobs, storage, log):
        jobs = open_jobs(log=log, other=Log())
        stored = [
            publish(storage, b"audio", RecordingName("A", str(number), "mp3"))
            for number in range(10)
        ]
        barrier = threading.Barrier(4)

        def add(_: int) -> None:
            barrier.wait()
            for each in stored:
                jobs.add(each)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, range(4)))
        assert drain(jobs) == 20
        assert len(log) == 10

    def test_other_bytes_of_the_same_name_are_worked_on(self, open_jobs, storage, log):
        jobs = open_jobs(log=log)
        for data in (b"one", b"two", b"one"):
            jobs.add(publish(storage, data, NAME))
            drain(jobs)
        assert len(log) == 2

    def test_same_bytes_that_came_again_after_they_were_purged_are_worked_on(
        self, open_jobs, storage, log
    ):
        jobs = open_jobs(log=log)
        for _ in range(2):
            jobs.add(publish(storage, b"audio", NAME))
            drain(jobs)
            storage.delete(str(NAME))
        assert len(log) == 2

    def test_same_bytes_are_worked_on_where_a_storage_cannot_tell_them_from_the_old(
        self, open_jobs, log
    ):
        jobs = open_jobs(log=log)
        for outcome in (Outcome.CREATED, Outcome.IDENTICAL, Outcome.CREATED):
            jobs.add(Stored(outcome, "x.mp3", etag="md5"))
            drain(jobs)
        assert len(log) == 2

    def test_recordings_that_are_enqueued_at_once_share_a_commit(self, open_jobs, log, monkeypatch):
        jobs = open_jobs(log=log)
        commits, write = [], jobs.queue._write
        monkeypatch.setattr(jobs.queue, "_write", lambda rows: commits.append(write(rows)))
        jobs.queue._turn.acquire()
        with ThreadPoolExecutor(8) as pool:
            for number in range(8):
                pool.submit(jobs.add, Stored(Outcome.CREATED, f"{number}.mp3", etag="a"))
            while len(jobs.queue._batch.rows) < 8:
                time.sleep(0.01)
            jobs.queue._turn.release()
        assert len(commits) == 1
        assert waiting(jobs) == 8

    def test_jobs_that_cannot_be_enqueued_together_each_fail(self, open_jobs, log, monkeypatch):
        jobs = open_jobs(log=log)
        jobs.queue.prepare()

        def fail(*args: object) -> None:
            raise StorageUnavailable("the queue is down")

        monkeypatch.setattr(jobs.queue, "_write", fail)
        jobs.queue._turn.acquire()
        with ThreadPoolExecutor(4) as pool:
            added = [
                pool.submit(jobs.add, Stored(Outcome.CREATED, f"{number}.mp3", etag="a"))
                for number in range(4)
            ]
            while len(jobs.queue._batch.rows) < 4:
                time.sleep(0.01)
            jobs.queue._turn.release()
        for each in added:
            with pytest.raises(StorageUnavailable, match="the queue is down"):
                each.result()

    def test_erasure_forgets(self, open_jobs, storage, log):
        jobs = open_jobs(command=log)
        stored = publish(storage, b"audio", NAME)
        jobs.add(stored)
        jobs.forget(stored.path, stored.etag)
        assert drain(jobs) == 0


class TestTaking:
    """Workers share a queue, on several machines too."""

    def test_each_job_is_taken_once(self, open_jobs, log):
        jobs = open_jobs(log=log)
        for number in range(200):
            jobs.add(Stored(Outcome.CREATED, f"{number}.mp3", etag="a"))
        others = [open_jobs(log=log) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(drain, others)) == 200
        assert len({*log}) == len(log) == 200

    def test_first_come_is_first_served(self, open_jobs, log):
        jobs = open_jobs(log=log)
        for number in range(20):
            jobs.add(Stored(Outcome.CREATED, f"{number}.mp3", etag="a"))
        drain(jobs)
        assert log == [f"{number}.mp3" for number in range(20)]

    def test_kind_with_much_to_do_does_not_hold_up_another(self, open_jobs):
        jobs = open_jobs(one=Log(), two=Log())
        for number in range(20):
            jobs.add(Stored(Outcome.CREATED, f"{number}.mp3", etag="a"))
        taken = jobs.queue.take(jobs.queue.register(), ["one", "two"], 4)
        assert sorted(job.kind for job in taken) == ["one", "one", "two", "two"]

    def test_kind_that_a_worker_does_not_know_waits_and_is_shown(self, open_jobs, log):
        """It may be that a setting was absent only for a moment."""
        open_jobs(command=log).add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        without = open_jobs(checksum=Log())
        assert drain(without) == 0
        assert without.backlog().waiting == {"command": 1, "checksum": 0}
        assert drain(open_jobs(command=log)) == 1


class TestFailure:
    """What fails is tried again, with growing pauses, and then listed."""

    def give_up(self, jobs: Jobs, clock) -> list[float]:
        """Let a job fail until it is given up; return the pauses between its tries."""
        pauses = []
        drain(jobs)
        while waiting(jobs):
            with jobs.queue._database.engine.connect() as connection:
                due = connection.scalar(sa.select(table.c.due).where(table.c.state == "waiting"))
                pauses.append(due - queues.now(connection))
            clock(pauses[-1] - 1)
            assert drain(jobs) == 0
            clock(1.1)
            drain(jobs)
        return pauses

    def test_pauses_grow_until_it_is_given_up(self, open_jobs, log, clock):
        log.fails = True
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "A/x.mp3", etag="a"))
        pauses = self.give_up(jobs, clock)
        assert len(log) == TRIES
        wanted = [FIRST_PAUSE * PAUSE_FACTOR**n for n in range(TRIES - 1)]
        assert pauses == pytest.approx(wanted, abs=3)
        (job,) = jobs.given_up()
        assert (job.kind, job.event.path, job.reason) == ("log", "A/x.mp3", "out of order")

    def test_what_was_given_up_can_be_tried_again(self, open_jobs, log, clock):
        log.fails = True
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "A/x.mp3", etag="a"))
        self.give_up(jobs, clock)
        log.fails = False
        assert jobs.retry() == 1
        drain(jobs)
        assert list(jobs.given_up()) == []
        assert len(log) == TRIES + 1

    def test_retry_of_the_sender_does_not_try_it_again(self, open_jobs, log, clock):
        log.fails = True
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "A/x.mp3", etag="a"))
        self.give_up(jobs, clock)
        jobs.add(Stored(Outcome.IDENTICAL, "A/x.mp3", etag="a"))
        drain(jobs)
        assert len(log) == TRIES

    def test_failure_of_one_kind_does_not_touch_another(self, open_jobs, log, clock):
        log.fails = True
        other = Log()
        jobs = open_jobs(log=log, other=other)
        jobs.add(Stored(Outcome.CREATED, "A/x.mp3", etag="a"))
        self.give_up(jobs, clock)
        assert len(other) == 1

    def test_reason_may_be_any_text(self, open_jobs):
        jobs = open_jobs(log=Log())
        jobs.add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        worker = jobs.queue.register()
        (job,) = jobs.queue.take(worker, ["log"], 1)
        jobs.queue.fail(job, worker, "日本 \U0001f4de é" + "x" * 5000)
        assert waiting(jobs) == 1


class TestDeath:
    """What a worker had taken when it died is done by another; a worker that lives keeps it."""

    def test_job_of_a_dead_worker_is_done_again(self, open_jobs, log):
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        dead = jobs.queue.register()
        assert jobs.queue.take(dead, ["log"], 1)  # and no more is heard of it
        other = open_jobs(log=log)
        assert drain(other) == 0
        worker = other.queue.register()
        beat = other.queue.beat(worker, ())[dead]
        assert other.queue.bury(dead, beat)
        assert drain(other, worker) == 1

    def test_worker_that_spoke_meanwhile_is_not_buried(self, open_jobs, log):
        jobs = open_jobs(log=log)
        slow, other = jobs.queue.register(), jobs.queue.register()
        beat = jobs.queue.beat(other, ())[slow]
        jobs.queue.beat(slow, ())
        assert not jobs.queue.bury(slow, beat)

    def test_worker_that_was_taken_for_dead_changes_nothing_of_what_others_do(self, open_jobs, log):
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        slow, other = jobs.queue.register(), jobs.queue.register()
        (job,) = jobs.queue.take(slow, ["log"], 1)
        jobs.queue.bury(slow, jobs.queue.beat(other, ())[slow])
        (again,) = jobs.queue.take(other, ["log"], 1)
        for late in (
            lambda: jobs.queue.finish(job, slow),
            lambda: jobs.queue.fail(job, slow, "late"),
            lambda: jobs.queue.beat(slow, ()),
        ):
            with pytest.raises(Lost):
                late()
        jobs.queue.finish(again, other)
        assert waiting(jobs) == 0

    def test_what_a_worker_never_learned_that_it_has_is_given_back(self, open_jobs, log):
        """The connection broke after the commit that took it."""
        jobs = open_jobs(log=log)
        for name in ("known", "unknown"):
            jobs.add(Stored(Outcome.CREATED, name, etag="a"))
        worker = jobs.queue.register()
        known, _ = jobs.queue.take(worker, ["log"], 2)
        jobs.queue.beat(worker, [known.id])
        (again,) = jobs.queue.take(worker, ["log"], 2)
        assert (known.event.path, again.event.path) == ("known", "unknown")
        jobs.queue.finish(known, worker)

    def test_what_nobody_has_is_given_back_to_the_next_worker(self, open_jobs, log):
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        worker = jobs.queue.register()
        jobs.queue.take(worker, ["log"], 1)
        with jobs.queue._database.engine.begin() as connection:
            connection.execute(sa.delete(queues.workers))  # as a backup may lack it
        assert drain(jobs) == 1

    def test_job_that_its_worker_never_survives_is_given_up(self, open_jobs, log):
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        for _ in range(TRIES):
            worker = jobs.queue.register()
            assert jobs.queue.take(worker, ["log"], 1)
            jobs.queue.leave(worker)
        assert drain(jobs) == 0
        (job,) = jobs.given_up()
        assert job.reason == "its worker died each time that it ran"

    def test_silence_is_measured_by_the_clock_of_who_listens(self):
        silences, at = Silences(), 1000.0
        assert silences.of({"dead": 5, "lives": 0}, at) == []
        for step in range(1, int(LEASE / BEAT) + 1):
            assert silences.of({"dead": 5, "lives": step}, at + step * BEAT) == []
        assert silences.of({"dead": 5, "lives": 99}, at + LEASE + BEAT) == ["dead"]

    def test_time_in_which_nobody_could_speak_is_no_silence(self):
        """The queue was down for an hour, or this process was stopped."""
        silences = Silences()
        assert silences.of({"other": 5}, 0.0) == []
        assert silences.of({"other": 5}, 3600.0) == []
        assert silences.of({"other": 5}, 7200.0) == []


class TestClock:
    """Clocks are set; nothing is late or done twice for that."""

    @pytest.mark.parametrize("by", [-DAY, DAY])
    def test_what_waits_is_taken(self, open_jobs, log, clock, by):
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        clock(by)
        assert drain(jobs) == 1

    def test_pause_does_not_grow(self, open_jobs, log, clock):
        log.fails = True
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        worker = jobs.queue.register()
        jobs.queue.beat(worker, ())
        drain(jobs, worker)
        clock(-DAY)
        jobs.queue.beat(worker, ())
        assert drain(jobs, worker) == 0
        clock(FIRST_PAUSE + 0.1)
        assert drain(jobs, worker) == 1

    @pytest.mark.parametrize("by", [-DAY, DAY])
    def test_worker_that_lives_keeps_its_jobs(self, open_jobs, log, clock, by):
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        worker, other = jobs.queue.register(), jobs.queue.register()
        (job,) = jobs.queue.take(worker, ["log"], 1)
        clock(by)
        silences = Silences()
        assert silences.of(jobs.queue.beat(other, ()), 0.0) == []
        jobs.queue.beat(worker, [job.id])
        assert silences.of(jobs.queue.beat(other, ()), 2 * BEAT) == []
        assert jobs.queue.take(other, ["log"], 1) == []
        jobs.queue.finish(job, worker)

    def test_hourly_work_is_claimed_once_an_hour_by_one_of_all(self, open_jobs, clock):
        one, other = open_jobs(log=Log()), open_jobs(log=Log())
        claims = [each.queue.claim_hour() for each in (one, other)]
        clock(3601)
        claims += [each.queue.claim_hour() for each in (one, other, one)]
        assert claims == [False, False, True, False, False]
        clock(-DAY)
        assert not one.queue.claim_hour()
        clock(3601)
        assert other.queue.claim_hour()


class TestSize:
    """What is finished costs neither time nor memory."""

    def fill(self, jobs: Jobs, count: int, state: str = "done", due: float = 0.0) -> None:
        jobs.queue.prepare()
        for start in range(0, count, 10_000):
            rows = [
                queues._rows(Stored(Outcome.IDENTICAL, f"{n}.mp3", etag="a"), ["log"])[0]
                | {"state": state, "due": due}
                for n in range(start, min(count, start + 10_000))
            ]
            with jobs.queue._database.engine.begin() as connection:
                connection.execute(sa.insert(table), rows)

    def test_what_was_done_is_forgotten_after_a_while_in_steps(self, open_jobs, log, clock):
        jobs = open_jobs(log=log)
        jobs.add(Stored(Outcome.CREATED, "x.mp3", etag="a"))
        drain(jobs)
        self.fill(jobs, 2 * STEP + 1)
        deleted = []
        sa.event.listen(jobs.queue._database.engine, "commit", deleted.append)
        jobs.queue.forget_old()
        assert len(deleted) >= 3
        assert self.count(jobs) == 1
        clock(KEPT + 1)
        jobs.queue.forget_old()
        assert self.count(jobs) == 0

    def count(self, jobs: Jobs) -> int:
        with jobs.queue._database.engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table))

    def test_no_statement_reads_what_is_finished(self, tmp_path, storage, log):
        """SQLite tells how it finds rows: never by looking at all of them."""
        jobs = open_at(f"sqlite:///{tmp_path}/queue.sqlite", storage, log=log)
        self.fill(jobs, 1000, due=time.time() + KEPT)
        statements: set[tuple[str, object]] = set()

        @sa.event.listens_for(jobs.queue._database.engine, "before_cursor_execute")
        def note(connection, cursor, statement, parameters, context, many):
            if statement.startswith(("SELECT", "UPDATE", "DELETE")) and "sqlite_" not in statement:
                statements.add((statement, parameters))

        log.fails = True
        stored = Stored(Outcome.CREATED, "x.mp3", etag="a")
        jobs.add(stored)
        worker = jobs.queue.register()
        jobs.queue.beat(worker, ())
        drain(jobs, worker)
        jobs.backlog(), list(jobs.given_up()), jobs.retry(), jobs.queue.forget_old()
        jobs.check(), jobs.queue.claim_hour(), jobs.forget(stored.path, stored.etag)
        jobs.queue.leave(worker)
        scans = []
        with jobs.queue._database.engine.connect() as connection:
            for statement, parameters in statements:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                scans += [
                    (row[3], statement)
                    for row in plan
                    if row[3].startswith("SCAN kzr_jobs")
                    and "kzr_job_workers" not in row[3]
                    and "kzr_job_times" not in row[3]
                ]
        jobs.queue.close()
        assert len(statements) > 15
        assert scans == []


class TestFile:
    """A queue in a file that vanishes is made anew."""

    def test_file_that_was_removed_is_made_anew(self, tmp_path, storage, log):
        path = tmp_path / "queue.sqlite"
        jobs = open_at(f"sqlite:///{path}", storage, log=log)
        jobs.add(Stored(Outcome.CREATED, "1.mp3", etag="a"))
        path.unlink()
        jobs.add(Stored(Outcome.CREATED, "2.mp3", etag="a"))
        jobs.queue.close()
        again = open_at(f"sqlite:///{path}", storage, log=log)
        drain(again)
        again.queue.close()
        assert log == ["2.mp3"]

    def test_file_that_is_removed_while_it_is_written_is_a_failure(
        self, tmp_path, storage, log, monkeypatch
    ):
        path = tmp_path / "queue.sqlite"
        jobs = open_at(f"sqlite:///{path}", storage, log=log)
        parameters = queues._parameters

        def lose(*arguments):
            path.unlink()
            return parameters(*arguments)

        monkeypatch.setattr(queues, "_parameters", lose)
        with closing(jobs.queue), pytest.raises(StorageUnavailable, match="its file was removed"):
            jobs.add(Stored(Outcome.CREATED, "1.mp3", etag="a"))

    def test_queue_that_cannot_be_reached_is_told(self, storage):
        jobs = open_at("postgresql://u:p@127.0.0.1:9/x", storage, log=Log())
        for use in (lambda: jobs.add(Stored(Outcome.CREATED, "x", etag="a")), jobs.check):
            with pytest.raises(StorageUnavailable, match="the queue of jobs cannot be used"):
                use()
        assert isinstance(jobs.queue, Queue)
