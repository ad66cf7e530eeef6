"""How long recordings are kept, what keeps them longer, and what ends them."""

import logging
import time
from collections.abc import Callable, Mapping

from flask import Flask

from ..parts import Parts
from ..shown import shown
from .purge import DAY, Removal, Unconfirmed, purge_carefully

logger = logging.getLogger("receiver.retention")


def hourly(app: Flask, parts: Parts) -> list[Callable[[], object]]:
    """What the worker is to call once an hour."""
    keep_days = app.config["KEEP_DAYS"]
    if not keep_days:
        return []
    return [lambda: purge_and_log(parts, keep_days, time.time())]


def purge_and_log(parts: Parts, keep_days: Mapping[str, int], now: float) -> None:
    """Purge, and leave in the log what was removed, what failed, and how many there were."""

    def log(removal: Removal) -> None:
        age = f"{(now - removal.modified) / DAY:.1f}d"
        path = shown(removal.path)
        logger.info("purged %s age=%s rule=%dd size=%d", path, age, removal.days, removal.size)

    try:
        report = purge_carefully(parts.storage, parts.catalog, keep_days, now, removed=log)
    except Unconfirmed as error:
        logger.warning("purge: %s", error)
        return
    for line in report.failed:
        logger.warning("not purged: %s", line)
    logger.info(
        "purge: %d removed, %d bytes; %d on hold, %d failed",
        len(report.removed),
        report.size,
        len(report.held),
        len(report.failed),
    )
