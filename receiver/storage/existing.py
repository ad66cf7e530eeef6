"""What is there already, and whose it is: commands create no storage, and leave it its owner."""

import os
import pwd
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import SettingError
from .place import MARKER, is_storage


def local_path(url: str) -> str:
    """The folder, or SQLite's file, that a storage's URL names; "" where it is elsewhere."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return os.path.abspath(url)
    return os.path.abspath(unquote(rest[1:])) if scheme == "sqlite" else ""


def without_password(url: str) -> str:
    """A storage's URL as people may see it: without user, password and options."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "sqlite":
        return local_path(url)
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def require_existing(url: str, *, may_be_empty: bool = False) -> None:
    """Raise `SettingError` where a storage is to be on this machine and is not.

    A folder that is empty is none, unless it `may_be_empty`.
    """
    path = local_path(url)
    if not path:
        return
    is_folder = "://" not in url and not may_be_empty
    try:
        is_there = is_storage(Path(path)) if is_folder else os.path.exists(path)
    except OSError as error:
        hint = ": run this as root" if isinstance(error, PermissionError) else ""
        raise SettingError(f"cannot look into {path}: {error.strerror}{hint}") from None
    if not is_there:
        raise SettingError(
            f"there is no storage {path}: is it the right one, and is its disk mounted? "
            f"KZR_STORAGE={shlex.quote(url)} kazoo-receiver init makes a new one"
        )


def owner_of(*urls: str) -> os.stat_result | None:
    """The status of the first of some storages, catalogs and queues that is on this machine."""
    for path in map(local_path, filter(None, urls)):
        if path and os.path.exists(path):
            marker = os.path.join(path, MARKER)  # a folder may be another's, for a group to write
            return os.lstat(marker) if os.path.lexists(marker) else os.stat(path)
    return None


def local_urls(config: Mapping[str, Any]) -> list[str]:
    """What the settings name by URL and could be on this machine, the storage first."""
    return [
        config["STORAGE"],
        *(config[name] for name in ("CATALOG", "QUEUE") if "://" in config[name]),
    ]


def name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def refuse_as_root(*urls: str) -> None:
    """Raise `SettingError` where root would leave files in what another user has to write."""
    owner = owner_of(*urls)
    if owner and owner.st_uid and os.geteuid() == 0:
        raise SettingError(
            f"{without_password(urls[0])} is {name_of(owner.st_uid)}'s, who could not read what "
            "root writes: run kazoo-receiver in place of flask --app app"
        )
