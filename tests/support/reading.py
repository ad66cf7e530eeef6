"""Receivers that are read from: on every storage, behind and in every server, and with its help."""

import base64
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.clients import Answer, Client
from support.fronts import FRONTS, Apache, Nginx, installed
from support.receivers import Receiver

STORAGES = ("directory", "sqlite", "s3", "postgresql", "mariadb")
SENDING = ("accel", "xsendfile")  # nginx or Apache sends the file itself
SERVERS = (*FRONTS, *SENDING, *STORAGES)
USER = "kazoo:secret"

_numbers = itertools.count()


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


READER = basic(USER)


def new_name() -> str:
    """A Call-ID that no other test has."""
    return f"call-{next(_numbers)}"


def put(server: Client, target: str, body: bytes) -> None:
    answer = server.request("PUT", target, body)
    assert answer.status in (200, 201), answer.text


def get(server: Client, target: str, method: str = "GET", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.request(method, target, headers=READER | named)


def with_stored_location(conf: str) -> str:
    """Do what the comment above nginx's `location /stored/` says."""
    lines = re.search(r" +# location /stored/ \{.*?# \}\n", conf, re.DOTALL)[0]
    return conf.replace(lines, re.sub(r"^( +)# ?", r"\1", lines, flags=re.MULTILINE))


class XSendfile(Apache):
    """mod_wsgi with mod_xsendfile."""

    modules = (*Apache.modules, "xsendfile")

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.let_in()
        changes = {"/opt/kazoo-receiver": installed(), "/srv/recordings": self.storage}
        site = self.site("apache-wsgi.conf", changes).replace("# XSendFile", "XSendFile")
        settings = {"storage": self.storage, "x_sendfile": "yes"} | settings
        self.start(site, **{f"KZR_{name.upper()}": str(value) for name, value in settings.items()})


@contextmanager
def reading(
    name: str, folder: Path, given: Callable[[str], object], **settings: object
) -> Iterator[Client]:
    """One of `SERVERS`; `given` returns the fixture of a database or bucket."""
    settings = {"readers": USER, "min_free": 0} | settings
    with pytest.MonkeyPatch.context() as patch:
        if name in FRONTS:
            server = FRONTS[name](**settings)
        elif name == "accel":
            server = Nginx(edit=with_stored_location, accel_prefix="/stored", **settings)
        elif name == "xsendfile":
            server = XSendfile(**settings)
        else:
            storage: object = folder / "recordings"
            if name == "sqlite":
                storage = f"sqlite:///{folder}/recordings.sqlite"
            elif name == "s3":
                bucket = given("rclone")
                for variable, value in bucket.environ.items():
                    patch.setenv(variable, value)
                storage = f"s3://{bucket.create_bucket()}/some/prefix"
            elif name != "directory":
                storage = given(name).new_url()
            server = Receiver(folder, storage=storage, **settings)
        try:
            yield server
        finally:
            server.stop()
