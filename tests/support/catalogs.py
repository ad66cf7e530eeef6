"""Rows of a catalog without their recordings."""

import dataclasses
from datetime import datetime

from receiver.catalog.catalog import Page
from receiver.catalog.description import Description

ACCOUNT = "4f8c2d6ba1e04be39c1d7f60a2b3c4d5"
MAY_1 = datetime(2026, 5, 1, 12).timestamp()
TOLD = {
    "from": "1001@acme.example.com",
    "to": "+14155550100@acme.example.com",
    "caller_id_name": "Jörg & 李",
    "caller_id_number": "1001",
    "callee_id_name": "Bob",
    "callee_id_number": "+14155550100",
    "call_id": "abc123@10.0.0.1",
    "cdr_id": "202611-abc123@10.0.0.1",
    "interaction_id": "63868000000-7a1b2c3d",
    "account_id": ACCOUNT,
}


def recording(number: int, **known) -> Description:
    values = {field.name: "" for field in dataclasses.fields(Description)}
    values |= {"size": 1000 + number, "received": MAY_1 + number, "start": 0.0, "duration": 0.0}
    values["began"] = known.get("received", values["received"])
    path = known.pop("path", f"{number}.mp3")
    folder = path.rpartition("/")[0]
    return Description(**(values | {"path": path, "original": path, "folder": folder} | known))


def paths(page: Page) -> list[str]:
    return [each.path for each in page.recordings]
