"""Real servers for the tests: nothing here stands in for the receiver or for a client of it."""

import os
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.folders import SHARED, world_readable_folder
from support.ports import free_port
from support.receivers import Receiver

if TYPE_CHECKING:
    from support import backends, buckets, databases

with suppress(ImportError):
    from hypothesis import settings

    settings.register_profile("tests", deadline=None)  # a busy machine is no failure
    settings.load_profile("tests")

# Certificates are looked up in their folder. All of them in one file would be read, and that by
# PyMySQL for each of its connections, whether the server has TLS or not.
certificates = ssl.get_default_verify_paths().capath
if certificates and any(Path(certificates).glob("*.0")):
    os.environ |= {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": certificates}


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        shared = world_readable_folder()
        config.add_cleanup(partial(shutil.rmtree, shared))
        os.environ[SHARED] = str(shared)


def told(report, path: Path):
    """Name a skipped test's file, so that one line tells of all; on CI, nothing may be skipped."""
    if report.skipped:
        *_, reason = report.longrepr
        report.longrepr = (str(path), None, reason)
        if os.environ.get("CI") == "true":
            report.outcome, report.longrepr = "failed", f"on CI, nothing may be: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return told((yield), collector.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    return told((yield), item.path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from support.chains import Chains

    return Chains(config, log)


@pytest.fixture(scope="session")
def postgresql() -> Iterator["databases.PostgreSQL"]:
    """A private PostgreSQL for the whole run."""
    from support.databases import PostgreSQL

    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator["databases.MariaDB"]:
    """A private MariaDB for the whole run."""
    from support.databases import MariaDB

    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory) -> Iterator["buckets.Rclone"]:
    """A private S3 server for the whole run, which keeps its files when it is restarted."""
    from support.buckets import Rclone

    server = Rclone(tmp_path_factory.mktemp("rclone"))
    yield server
    server.stop()


@pytest.fixture(params=["directory", "s3", "postgresql", "mariadb"])
def backend(request, tmp_path, monkeypatch) -> "backends.Backend":
    """Each kind of storage, empty."""
    from support.backends import S3, Backend, Database

    folder = tmp_path / "machines"
    folder.mkdir()
    if request.param == "directory":
        return Backend(str(tmp_path / "recordings"), folder)
    if request.param == "sqlite":  # where a test asks for it
        return Backend(f"sqlite:///{tmp_path}/recordings.sqlite", folder)
    if request.param == "s3":
        server = request.getfixturevalue("rclone")
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        return S3(server, folder)
    return Database(request.getfixturevalue(request.param), folder)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """Start receivers with other options or settings than the shared one's."""
    with ExitStack() as stack:

        def start_receiver(*options: str, **settings: object) -> Receiver:
            folder = tmp_path / f"receiver-{free_port()}"
            folder.mkdir()
            server = Receiver(folder, *options, **settings)
            stack.callback(server.stop)
            return server

        yield start_receiver


@pytest.fixture(scope="session", params=["gthread", "sync"])
def each_worker(request, tmp_path_factory) -> Iterator[Receiver]:
    """One receiver for the whole run with each kind of gunicorn's workers."""
    folder = tmp_path_factory.mktemp(request.param)
    server = Receiver(
        folder,
        *(["--worker-class=sync"] if request.param == "sync" else []),  # the other is the default
        read_timeout=1,
        body_deadline=3,
        max_bytes="30M",
        readers="kazoo:secret",
    )
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Iterator[Receiver]:
    """One receiver for the whole run, with no settings."""
    server = Receiver(tmp_path_factory.mktemp("shared"))
    yield server
    server.stop()


@pytest.fixture
def receiver(shared: Receiver) -> Receiver:
    """The shared receiver with an empty storage."""
    shared.clear()
    return shared


@pytest.fixture
def worker(each_worker: Receiver) -> Receiver:
    """A receiver of each kind of worker, with an empty storage, short timeouts, 30 MiB at most."""
    each_worker.clear()
    return each_worker
