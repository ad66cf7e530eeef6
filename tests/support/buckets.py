"""Servers of the S3 protocol for the tests and the benchmark."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

pytest.importorskip("boto3")

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from support.needs import need
from support.ports import free_port
from support.waiting import wait_for

KEY, SECRET = "receiver", "wJalrXUtnFEMIsecretEXAMPLEKEY"
REGION = "us-east-1"
# moto's own program serves requests in threads, where its check of a condition and what follows
# are two steps. Served one after the other, its requests are atomic, as those of real servers are.
# It also looks for the service of each request, which takes longer than what S3 does then.
MOTO = """
import sys
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
run_simple(
    "127.0.0.1",
    int(sys.argv[1]),
    create_backend_app("s3"),
    threaded=sys.argv[2] == "threaded",
    request_handler=MotoRequestHandler,
)
"""


def need_here(program: str) -> str:
    """Return the path of a program that was installed beside Python, or anywhere else."""
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.exists() else need(program)


class Server:
    """A server on a port of this machine, which it keeps when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.environ = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
        }
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )
        self.start()

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        wait_for(self._is_up, 60, why=f"{type(self).__name__} to start")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text(errors="replace")
        try:
            self.client.list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        self.process.wait(20)

    def pause(self) -> None:
        """Let it accept connections, but answer nothing."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def create_bucket(self) -> str:
        """Return the name of a new, empty bucket."""
        bucket = f"bucket-{uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=bucket)
        return bucket

    def objects(self, bucket: str, prefix: str = "", below: str = "") -> dict[str, bytes]:
        """All objects, hidden ones too, by their keys without the prefix."""
        lister = self.client.get_paginator("list_objects_v2")
        pages = lister.paginate(Bucket=bucket, Prefix=f"{prefix}{below}")
        keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
        found = {}
        for key in keys:
            with suppress(self.client.exceptions.NoSuchKey):  # removed meanwhile
                answer = self.client.get_object(Bucket=bucket, Key=key)
                found[key.removeprefix(prefix)] = answer["Body"].read()
        return found


class Moto(Server):
    """moto: knows conditions on PUT and on the end of an upload in parts; forgets when it ends.

    With `threaded`, requests are served at once, as by moto's own program, and are not atomic.
    """

    def __init__(self, folder: Path, *, threaded: bool = False) -> None:
        self.threaded = threaded
        super().__init__(folder)

    def command(self) -> list[str]:
        kind = "threaded" if self.threaded else "in-turn"
        return [sys.executable, "-c", MOTO, str(self.port), kind]


class Rclone(Server):
    """rclone: buckets are folders of ordinary files; ignores conditions; checks signatures."""

    def command(self) -> list[str]:
        files = self.folder / "buckets"
        files.mkdir(exist_ok=True)
        return [
            need_here("rclone"),
            "serve",
            "s3",
            f"--addr=127.0.0.1:{self.port}",
            f"--auth-key={KEY},{SECRET}",
            f"--config={os.devnull}",
            str(files),
        ]
