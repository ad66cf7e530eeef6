"""How long recordings are kept, what keeps them longer, and what ends them."""

import time
from collections.abc import Callable

from flask import Flask

from ..parts import Parts
from .purge import purge


def hourly(app: Flask, parts: Parts) -> list[Callable[[], object]]:
    """What the worker is to call once an hour."""
    keep_days = app.config["KEEP_DAYS"]
    if not keep_days:
        return []
    return [lambda: purge(parts.storage, parts.catalog, keep_days, time.time())]
