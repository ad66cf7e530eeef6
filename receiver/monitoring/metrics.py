"""Figures for Prometheus.

Where several processes serve (gunicorn), they share their figures through the files of
`PROMETHEUS_MULTIPROC_DIR`, which is set before this module is imported.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from flask import Blueprint, Response, current_app, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ..access import is_in
from ..errors import Forbidden, ReceiverError
from ..parts import Jobs, Storage, exchange, parts
from ..storage.purges import noted
from .ended import locked, put_together

metrics = Blueprint("metrics", __name__)

OUTCOMES = ("created", "identical", "superseded", "refused", "failed")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

uploads = Counter("receiver_uploads", "Uploads, by what became of them.", ["outcome"])
received = Counter("receiver_upload_bytes", "Bytes of the bodies of uploads.")
seconds = Histogram("receiver_upload_seconds", "Seconds that uploads took.", buckets=SECONDS)
last = Gauge(
    "receiver_last_recording_timestamp_seconds",
    "When a recording was last stored, or else when the receiver started.",
    multiprocess_mode="max",
)
lag = Gauge(
    "receiver_catalog_lag_seconds",
    "For how long the oldest recording has been waiting to be in the catalog.",
    multiprocess_mode="livemax",
)
for _outcome in OUTCOMES:
    uploads.labels(_outcome)
last.set_to_current_time()


class FreeSpace(Collector):
    """The room that is left where recordings arrive, as it is at each scrape."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def collect(self) -> Iterable[Metric]:
        disk = os.statvfs(self._storage.spool)
        yield GaugeMetricFamily(
            "receiver_free_bytes",
            "Bytes that are free where recordings arrive.",
            disk.f_bavail * disk.f_frsize,
        )


class Purged(Collector):
    """What all purges have done, by the worker or a command: they note it in the storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def collect(self) -> Iterable[Metric]:
        try:
            purges = noted(self._storage)
        except ReceiverError:  # a storage that is down hides no other figure
            return
        for name, meaning, value in (
            ("recordings", "Recordings that were purged.", purges.recordings),
            ("bytes", "Bytes of recordings that were purged.", purges.size),
            ("failures", "Recordings that could not be purged, at each purge.", purges.failed),
        ):
            yield CounterMetricFamily(f"receiver_purged_{name}", meaning, value)
        if purges.last:
            yield GaugeMetricFamily(
                "receiver_last_purge_timestamp_seconds",
                "When recordings were last purged.",
                purges.last,
            )


class Waiting(Collector):
    """What is left to do after storing, whoever enqueued it."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterable[Metric]:
        try:
            backlog = self._jobs.backlog()
        except ReceiverError:  # a queue that is down hides no other figure
            return
        for name, meaning, counts in (
            ("waiting", "Jobs that wait to be done or run.", backlog.waiting),
            ("given_up", "Jobs that were given up.", backlog.given_up),
        ):
            family = GaugeMetricFamily(f"receiver_jobs_{name}", meaning, labels=["kind"])
            for kind in sorted({*backlog.waiting, *backlog.given_up}):
                family.add_metric([kind], counts.get(kind, 0))
            yield family
        yield GaugeMetricFamily(
            "receiver_jobs_oldest_seconds",
            "For how long the oldest job has been waiting.",
            backlog.oldest,
        )
        yield GaugeMetricFamily(
            "receiver_jobs_worker_timestamp_seconds",
            "When a worker last lived, 0 where none has yet.",
            backlog.lived,
        )


@metrics.get("/metrics")
def show() -> Response:
    """Answer with the figures of all processes, in Prometheus' text format."""
    if not is_in(request.remote_addr, current_app.config["METRICS_ALLOW"]):
        raise Forbidden(f"{request.remote_addr or 'this client'} is not in KZR_METRICS_ALLOW")
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    registry.register(FreeSpace(parts().storage))
    if current_app.config["KEEP_DAYS"]:
        registry.register(Purged(parts().storage))
    if jobs := parts().jobs:
        registry.register(Waiting(jobs))
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    with locked(folder):
        put_together(folder)
        figures = generate_latest(registry)
    return Response(figures, content_type=CONTENT_TYPE_LATEST)


def count_upload(response: Response) -> Response:
    """Count an upload when its answer is known."""
    if request.method in ("PUT", "POST"):
        uploads.labels(_outcome_of(response)).inc()
        received.inc(exchange().body.received)
        seconds.observe(time.monotonic() - exchange().started)
        if exchange().stored:
            last.set_to_current_time()
    if indexer := parts().indexer:
        lag.set(indexer.lag)
    return response


def _outcome_of(response: Response) -> str:
    if stored := exchange().stored:
        return str(stored.outcome)
    return "failed" if response.status_code >= 500 else "refused"
