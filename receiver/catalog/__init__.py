"""What was received, in SQL, for people and the page to find."""

from functools import partial

import tinytag  # noqa: F401 - a start tells that it is missing, not the first recording
from flask import Flask, Response

from ..parts import Parts, exchange
from ..storage import BUCKETS, beside
from .catalog import Catalog
from .indexing import Indexer


def init_app(app: Flask, parts: Parts) -> None:
    """Keep a catalog of what is received, in `KZR_CATALOG`; it is written after each answer."""
    url = app.config["CATALOG"]
    url = default_url(app.config["STORAGE"]) if url == "yes" else url
    parts.catalog = catalog = Catalog(url, app.config["TIMEZONE"])
    parts.indexer = indexer = Indexer(catalog, parts)

    def note_stored(response: Response) -> Response:
        if stored := exchange().stored:
            response.call_on_close(partial(indexer.add, stored.path))
            if stored.kept_path:
                response.call_on_close(partial(indexer.add, stored.kept_path))
        return response

    app.after_request(note_stored)


def default_url(storage: str) -> str:
    """The URL of the catalog that belongs to a storage: in its database, else in a file."""
    is_database = "://" in storage and storage.partition("://")[0] not in BUCKETS
    return storage if is_database else beside(storage, "catalog.sqlite", "KZR_CATALOG")
