"""Every setting of the receiver, once: its name, default, parser and meaning."""

import difflib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from zoneinfo import ZoneInfo

from flask import Config

from .errors import SettingError

PREFIX = "KZR"
MOST_DAYS = 36_500  # to keep recordings: a century
HASH_METHODS = ("scrypt:", "pbkdf2:")
_HASH = re.compile(r"(scrypt:\d+:\d+:\d+|pbkdf2:\w+(:\d+)?)\$[^$]+\$[0-9a-f]+")


@dataclass(frozen=True)
class Setting:
    """A setting `KZR_NAME`; `parse` turns its text into a value or raises `ValueError`."""

    name: str
    default: str
    parse: Callable[[str], Any]
    meaning: str
    is_secret: bool = False  # or may hold a secret: no error shows it


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("expected a whole number")
    return int(text)


def positive(text: str) -> int:
    if not count(text):
        raise ValueError("expected a whole number above 0")
    return count(text)


def size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:i?B)?", text.strip(), re.ASCII | re.IGNORECASE)
    if not match:
        raise ValueError("expected a size in bytes, such as 100M or 2G")
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")


def url_prefix(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", text):
        raise ValueError("expected the path of a URL, such as /kzr")
    return text.rstrip("/")


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected {' or '.join(choices)}")
        return text

    return parse


def yes_or_no(text: str) -> bool:
    if text not in ("yes", "no", "1", "0"):
        raise ValueError("expected yes or no")
    return text in ("yes", "1")


def credentials(text: str) -> dict[str, str]:
    pairs = [pair.partition(":") for pair in words(text)]
    if not all(user and secret for user, _, secret in pairs):
        raise ValueError("expected user:secret, several separated by spaces")
    for user, _, secret in pairs:
        if secret.startswith(HASH_METHODS) and not _HASH.fullmatch(secret):
            raise ValueError(
                f"the hash of {user} is not whole: a shell takes its $ for variables, "
                "so put the value into single quotes"
            )
    return {user: secret for user, _, secret in pairs}


def words(text: str) -> tuple[str, ...]:
    if "," in text:
        raise ValueError("a comma separates nothing and may be in no secret: use spaces")
    return tuple(text.split())


def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(part) for part in re.split(r"[\s,]+", text.strip()) if part)
    except ValueError as error:
        raise ValueError(f"expected networks such as 10.0.0.0/8: {error}") from None


def storage(text: str) -> str:
    if not text:
        raise ValueError("expected the path of a folder, or a URL")
    return text


def absolute_path(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("expected an absolute path")
    return text


def command(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def web_url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/]+\S*", text):
        raise ValueError("expected a URL such as https://example.com/path")
    return text


def queue(text: str) -> str:
    scheme, separator, _ = text.partition("://")
    if scheme in ("redis", "rediss", "unix"):
        raise ValueError(
            "Redis is no longer used: leave it out, for a queue in the storage, or name a database "
            "as postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    if text and not separator:
        raise ValueError("expected the URL of a database, such as sqlite:////PATH")
    return text


def keep_days(text: str) -> dict[str, int]:
    """Days by account; "" is for all others."""
    days: dict[str, int] = {}
    for word in text.split():
        account, named, number = word.partition("=")
        if not named:
            account, number = "", word
        elif not account:
            raise ValueError(f"{word} names no account: write ACCOUNT=DAYS")
        if not re.fullmatch("[0-9]{1,9}", number) or not 0 < int(number) <= MOST_DAYS:
            raise ValueError(f"{word}: expected days from 1 to {MOST_DAYS}, or ACCOUNT=DAYS")
        if account in days:
            raise ValueError(f"{account or 'all others'} has two numbers of days: keep one")
        days[account] = int(number)
    return days


def catalog(text: str) -> str:
    if text not in ("yes", "no") and "://" not in text:
        raise ValueError("expected yes, no or the URL of a database")
    return text


def page_path(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", text):
        raise ValueError("expected the path of a URL, such as /browse/")
    return text.rstrip("/") + "/"


def timezone(text: str) -> ZoneInfo | None:
    """A time zone; None, where none is named, is the system's."""
    try:
        return ZoneInfo(text) if text else None
    except (ValueError, OSError, LookupError):
        raise ValueError(
            "expected a time zone such as Europe/Berlin or UTC that the system knows (tzdata)"
        ) from None


Secret = partial(Setting, is_secret=True)
SETTINGS = (
    Secret(
        "STORAGE",
        "recordings",
        storage,
        "where recordings are stored: a folder, or the URL of a bucket or a database",
    ),
    Setting("STORAGE_WAIT", "0", count, "seconds to wait at the start for a storage that is down"),
    Setting("STORAGE_NEW", "yes", yes_or_no, "make a storage where there is none: `yes` or `no`"),
    Setting("URL_PREFIX", "/kzr", url_prefix, "path that stands for the storage's root"),
    Secret("WRITERS", "", credentials, "who may write: `user:secret`, several by spaces"),
    Secret("WRITE_TOKENS", "", words, "tokens that may write, as `?token=`, several by spaces"),
    Secret("READERS", "", credentials, "who may read: `user:secret`, several by spaces"),
    Setting("ALLOW_FROM", "", networks, "networks that may write, such as `10.0.0.0/8`"),
    Setting("TRUSTED_PROXIES", "0", count, "number of proxies whose X-Forwarded-For counts"),
    Setting("HANDOVER_DIR", "", absolute_path, "folder in which nginx hands over bodies"),
    Setting("ACCEL_PREFIX", "", url_prefix, "internal nginx location that serves the storage"),
    Setting("X_SENDFILE", "no", yes_or_no, "let Apache's mod_xsendfile serve files: `yes` or `no`"),
    Setting("REDIRECT_READS", "no", yes_or_no, "let S3 itself answer readers: `yes` or `no`"),
    Secret("CATALOG", "no", catalog, "find recordings: `yes`, `no`, or the URL of a database"),
    Setting("BROWSE_PATH", "/browse/", page_path, "path of the page to find recordings on"),
    Setting("TIMEZONE", "", timezone, "whose days and times the page shows, else the system's"),
    Secret(
        "QUEUE",
        "",
        queue,
        "queue of jobs: the URL of a database, where it is not to lie in the storage",
    ),
    Setting("CHECKSUMS", "no", yes_or_no, "keep each recording's SHA-256: `yes` or `no`"),
    Secret("ON_STORED", "", command, "command to run for each recording"),
    Secret("WEBHOOK_URL", "", web_url, "URL to tell of each recording"),
    Secret("WEBHOOK_SECRET", "", str, "secret to sign that with, such as `whsec_...`"),
    Setting("WEBHOOK_ALLOW_PRIVATE", "no", yes_or_no, "let it be in a private network"),
    Secret("TRANSCRIBE_URL", "", web_url, "`/v1/audio/transcriptions` of a transcription server"),
    Secret("TRANSCRIBE_KEY", "", str, "its key"),
    Setting("TRANSCRIBE_MODEL", "whisper-1", str, "its model"),
    Secret("PUBLIC_URL", "", web_url, "where readers reach this receiver, for links to it"),
    Setting("KEEP_DAYS", "", keep_days, "days to keep recordings: `365`, `365 ACCOUNT=30`"),
    Setting("METRICS_ALLOW", "", networks, "networks that may read `/metrics`, for Prometheus"),
    Setting("MAX_BYTES", "2G", size, "largest recording"),
    Setting("MIN_FREE", "100M", size, "disk space to leave free where recordings arrive"),
    Setting(
        "ON_CONFLICT",
        "keep-both",
        one_of("keep-both", "refuse"),
        "another recording has the name: `keep-both`, or `refuse` the new one",
    ),
    Setting("CHUNK_SIZE", "1024", positive, "bytes that are read at a time"),
    Setting("READ_TIMEOUT", "30", positive, "seconds that a client may stall (gunicorn)"),
    Setting("BODY_DEADLINE", "600", positive, "seconds that a whole upload may take (gunicorn)"),
)


# Those that give the worker something to do.
JOBS = ("CHECKSUMS", "ON_STORED", "WEBHOOK_URL", "TRANSCRIBE_URL", "KEEP_DAYS")


def load(overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the settings by name, from the environment's `KZR_*` and then `overrides`.

    Raises `SettingError`, with a line that names the setting, for an unknown name or a bad value.
    """
    given = Config("")
    given.from_prefixed_env(PREFIX, loads=str)
    given.update(overrides or {})
    known = {setting.name: setting for setting in SETTINGS}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {PREFIX}_{close[0]}?" if close else ""
            raise SettingError(f"{PREFIX}_{name} is not a setting of the receiver{hint}")
    return {
        name: _parse(setting, given.get(name, setting.default)) for name, setting in known.items()
    }


def _parse(setting: Setting, text: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        shown = "..." if setting.is_secret else text
        raise SettingError(f"{PREFIX}_{setting.name}={shown}: {error}") from None


@contextmanager
def installed(extra: str, *names: str) -> Iterator[None]:
    """Raise `SettingError` where what is imported, for settings that are on, is not installed."""
    try:
        yield
    except ImportError as error:
        asked = " and ".join(f"{PREFIX}_{name}" for name in names)
        raise SettingError(f"{asked}: {error}: .venv/bin/pip install '.[{extra}]'") from error


def require_parts(package: str, needed: Mapping[type, Sequence[str]]) -> None:
    """Raise `SettingError` unless a library has what is used of it and promised to nobody.

    `needed` are the names of attributes, by class.
    """
    for kind, names in needed.items():
        for name in names:
            if not hasattr(kind, name):
                raise SettingError(f"{package} {version(package)} has no {kind.__name__}.{name}")
