"""Tells another server of each recording, as https://www.standardwebhooks.com has it."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from ..errors import SettingError
from ..parts import Outcome, Parts
from ..storage.paths import url_of
from .client import LONGEST_REASON, post
from .event import Event, metadata_of, open_recording

ANSWER_SECONDS = 30  # for all of it, connecting too


class Webhook:
    """Work that posts JSON about a recording to `KZR_WEBHOOK_URL`, signed."""

    def __init__(self, config: Mapping[str, Any], parts: Parts) -> None:
        self._url = config["WEBHOOK_URL"]
        self._key = key_of(config["WEBHOOK_SECRET"])
        self._allow_private = config["WEBHOOK_ALLOW_PRIVATE"]
        self._root = ""
        if config["PUBLIC_URL"]:
            self._root = config["PUBLIC_URL"].rstrip("/") + config["URL_PREFIX"]
        self._parts = parts

    def __call__(self, event: Event) -> str:
        body = json.dumps(self._message(event), separators=(",", ":")).encode()
        now = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event.id,
            "webhook-timestamp": now,
            "webhook-signature": sign(self._key, event.id, now, body),
        }
        post(
            self._url,
            headers,
            body,
            seconds=ANSWER_SECONDS,
            longest=LONGEST_REASON,
            allow_private=self._allow_private,
        )
        return ""

    def _message(self, event: Event) -> dict[str, Any]:
        storage = self._parts.storage
        path, recording = open_recording(storage, event)
        with closing(recording):
            digest = recording.sha256()
        superseded = event.outcome == Outcome.SUPERSEDED
        received = datetime.fromtimestamp(event.received, UTC).isoformat(timespec="milliseconds")
        received = received.replace("+00:00", "Z")
        return {
            "type": "recording.superseded" if superseded else "recording.stored",
            "timestamp": received,
            "data": {
                "name": path,
                "url": self._url_of(path),
                "size": recording.size,
                "sha256": digest,
                "received": received,
                "superseded_is_kept_as": event.kept_as or None,
                "metadata": metadata_of(storage, path, event),
            },
        }

    def _url_of(self, path: str) -> str | None:
        """Where the recording is read; numbered copies have no URL."""
        url = url_of(path)
        return f"{self._root}/{url}" if self._root and url else None


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: `whsec_BASE64`, or the bytes of any other text."""
    if not secret:
        raise SettingError("KZR_WEBHOOK_SECRET: KZR_WEBHOOK_URL needs one, such as whsec_BASE64")
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        encoded = secret.removeprefix("whsec_")
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        if not key:
            raise ValueError("it is empty")
    except ValueError as error:
        raise SettingError(f"KZR_WEBHOOK_SECRET: expected base64 after whsec_: {error}") from error
    return key


def sign(key: bytes, id_: str, timestamp: str, body: bytes) -> str:
    """The value of the header `webhook-signature`."""
    digest = hmac.digest(key, b"%b.%b." % (id_.encode(), timestamp.encode()) + body, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"
