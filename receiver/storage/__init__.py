"""Where recordings are kept."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import SettingError, StorageFailed, StorageUnavailable
from ..parts import Storage
from .directory import DirectoryStorage
from .existing import local_path, local_urls, refuse_as_root, require_existing
from .place import NONE_THERE, not_mounted, unmounted

# By the URL's scheme: the module and class, and the extra that installs what they need.
BACK_ENDS = {
    "s3": ("bucket", "BucketStorage", "s3"),
    "gs": ("bucket", "BucketStorage", "s3"),
    "az": ("bucket", "BucketStorage", "s3"),
    "postgresql": ("database", "DatabaseStorage", "postgresql"),
    "mysql": ("database", "DatabaseStorage", "mysql"),
    "mariadb": ("database", "DatabaseStorage", "mysql"),
    "sqlite": ("database", "DatabaseStorage", "sqlite"),
}
BUCKETS = ("s3", "gs", "az")
LARGEST_OBJECT = 5 * 1024**3  # bytes that a bucket takes in one request
PAUSE = 1.0  # seconds between tries to reach a storage that is to be waited for


def open_storage(
    url: str,
    *,
    min_free: int = 0,
    supersede: bool = True,
    wait: int = 0,
    may_be_new: bool = True,
    read_only: bool = False,
    prepare: bool = True,
) -> Storage:
    """Open a storage: the path of a directory, or a URL with one of the schemes above.

    `min_free` is the number of bytes to leave free where recordings arrive. With `supersede` a new
    recording takes the name of an older, different one; without, it is refused. `wait` is the
    number of seconds in which a storage that cannot be reached is tried again. Without
    `may_be_new`, a folder or file that is missing or empty is not made a storage. With `read_only`
    nothing is created, tried or touched; without `prepare` nothing is created or tried. Raises
    `SettingError` where it cannot be used.
    """
    scheme, separator, _ = url.partition("://")
    open_one = _back_end(scheme) if separator else DirectoryStorage
    if scheme == "sqlite" and prepare and not read_only:
        _require_place(url, may_be_new)
    deadline = time.monotonic() + wait
    while True:
        try:
            options = {} if separator else {"may_be_new": may_be_new}
            storage = open_one(url, min_free=min_free, supersede=supersede, **options)
            if isinstance(storage, DirectoryStorage):
                storage.is_read_only = read_only
            if prepare and not read_only:
                storage.prepare()
            return storage
        except StorageUnavailable as error:
            if time.monotonic() > deadline:
                raise SettingError(
                    f"KZR_STORAGE={scheme}://...: {error}: start it, or give it time "
                    "with KZR_STORAGE_WAIT"
                ) from error
        time.sleep(PAUSE)


def _require_place(url: str, may_be_new: bool) -> None:
    """Raise `SettingError` where SQLite's file is missing, and is not to be made here."""
    path = Path(local_path(url))
    if path.exists() and path.stat().st_size:
        return
    if disk := unmounted(path):
        raise SettingError(f"KZR_STORAGE={path}: {not_mounted(disk)}")
    if not may_be_new:
        raise SettingError(f"KZR_STORAGE={path}: {NONE_THERE}")


def open_configured(config: Mapping[str, Any], *, prepare: bool = True) -> Storage:
    """Open the storage that the settings name."""
    scheme = config["STORAGE"].partition("://")[0]
    if "://" in config["STORAGE"] and scheme in BUCKETS and config["MAX_BYTES"] > LARGEST_OBJECT:
        raise SettingError("KZR_MAX_BYTES: a bucket takes no recording over 5 GiB: set it to 5G")
    return open_storage(
        config["STORAGE"],
        min_free=config["MIN_FREE"],
        supersede=config["ON_CONFLICT"] == "keep-both",
        wait=config["STORAGE_WAIT"],
        may_be_new=config["STORAGE_NEW"],
        prepare=prepare,
    )


def open_existing(config: Mapping[str, Any]) -> Storage:
    """Open the storage that the settings name, for a command: none is created."""
    require_usable(config)
    if is_database(config["STORAGE"]):
        with suppress(StorageUnavailable):  # it may be waited for
            require_tables(config["STORAGE"])
    # A folder is taken as it is: one that nobody may write to, such as a backup, can be looked at.
    return open_configured(config, prepare="://" in config["STORAGE"])


def require_tables(url: str) -> None:
    """Raise `SettingError` where a database has no recordings' tables."""
    try:
        next(iter(open_storage(url, read_only=True).scan()), None)
    except StorageFailed as error:
        raise SettingError(f"{error}: kazoo-receiver init makes what is missing") from error


def is_database(url: str) -> bool:
    """Whether a storage is a database."""
    return BACK_ENDS.get(url.partition("://")[0], ("",))[0] == "database"


def require_usable(config: Mapping[str, Any]) -> None:
    """Raise `SettingError` where a command would find no storage, or spoil another user's."""
    require_existing(config["STORAGE"])
    refuse_as_root(*local_urls(config))


def beside(url: str, name: str, setting: str) -> str:
    """The URL of an SQLite file of the receiver's own: in a folder that is the storage, hidden.

    Beside a database it lies in the working folder. A bucket has no place for one: raises
    `SettingError`, which names the setting that is to tell another.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme in BUCKETS:
        raise SettingError(
            f"{setting}: a bucket has no place for it: set {setting}=sqlite:////PATH, of a file on "
            "this machine's disk, or another URL"
        )
    path = os.path.abspath(name if separator else f"{url}/.{name}")  # as no recording's name is
    try:
        return f"sqlite:///{quote(path)}"
    except UnicodeEncodeError:
        raise SettingError(
            f"{setting}: the storage's path is not UTF-8: set {setting} to another place's URL"
        ) from None


def _back_end(scheme: str) -> Callable[..., Storage]:
    if scheme not in BACK_ENDS:
        schemes = ", ".join(f"{known}://" for known in BACK_ENDS)
        raise SettingError(
            f"KZR_STORAGE={scheme}://...: expected the path of a folder, or one of {schemes}"
        )
    module, name, extra = BACK_ENDS[scheme]
    try:
        back_end: Callable[..., Storage] = getattr(import_module(f".{module}", __name__), name)
    except ImportError as error:
        raise SettingError(
            f"KZR_STORAGE={scheme}://...: {error}: .venv/bin/pip install '.[{extra}]'"
        ) from error
    return back_end
