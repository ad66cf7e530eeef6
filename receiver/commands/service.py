"""What `kazoo-receiver` does before a command: the service's settings, its storage, its user."""

import os
import pwd
import re
from collections.abc import Callable, Iterator

import click
from flask import Flask
from flask.cli import ScriptInfo

from .. import config
from ..errors import SettingError
from ..storage.existing import local_urls, name_of, owner_of, require_existing, without_password

SETTINGS_FILE = "/etc/kazoo-receiver.env"
# systemd's syntax: what is quoted, then what is not; a comment or a line without "=" is neither.
_SINGLE, _DOUBLE = r"'([^']*)(?:'|\Z)", r'"((?:[^"\\]|\\.)*)(?:"|\Z)'
_QUOTED = re.compile(rf"[ \t\r]*(?:{_SINGLE}|{_DOUBLE})", re.DOTALL)
_BARE = re.compile(r"(?:[^\n\\]|\\.)*", re.DOTALL)
_NAME = re.compile(r"\s*(?:[#;][^\n]*|([^=\n]*)(=?))")


class Service(ScriptInfo):
    """A command's receiver: with the settings of `file`, as the user who owns its storage."""

    def __init__(self, create_app: Callable[[], Flask], file: str | None) -> None:
        super().__init__(create_app=create_app)
        self._file = file

    def load_app(self) -> Flask:
        try:
            if self._loaded_app is None:
                self.enter()
            return super().load_app()
        except SettingError as error:
            raise click.ClickException(str(error)) from None

    def enter(self, *, may_create: bool = False) -> None:
        """Say which storage the settings name, and become its owner."""
        self.read_settings()
        settings = config.load()
        # What it names must not depend on where a user may be.
        if "://" not in settings["STORAGE"]:
            os.environ["KZR_STORAGE"] = settings["STORAGE"] = os.path.abspath(settings["STORAGE"])
        become_owner(*local_urls(settings))
        say(settings["STORAGE"])
        if not may_create:
            require_existing(settings["STORAGE"])

    def read_settings(self) -> None:
        """Take the settings from the file, but those that the environment has."""
        path = self._file or SETTINGS_FILE
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                found = dict(variables(file.read()))
        except OSError as error:
            if self._file is None and (isinstance(error, FileNotFoundError) or _is_told()):
                return
            hint = ": run this as root" if isinstance(error, PermissionError) else ""
            raise SettingError(f"{path}: {error.strerror}{hint}") from None
        for name, value in found.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise SettingError(f"{path}: {name} is no variable: write NAME='VALUE'")
            os.environ.setdefault(name, value)
        if not _is_told():
            raise SettingError(f"{path} lacks KZR_STORAGE: add the one that the service has")


def _is_told() -> bool:
    return "KZR_STORAGE" in os.environ


def variables(text: str) -> Iterator[tuple[str, str]]:
    """The variables in the text of a file for systemd's EnvironmentFile."""
    place = 0
    while place < len(text) and (name := _NAME.match(text, place)):
        place, value = name.end(), ""
        if name[2]:
            while quoted := _QUOTED.match(text, place):
                single, double = quoted.groups()
                value += _unescaped(double, r'"\\`$\n') if single is None else single
                place = quoted.end()
            bare = _BARE.match(text, place)
            assert bare  # noqa: S101 - for mypy: it matches any text
            value += _unescaped(bare[0].lstrip(" \t\r"), "\0-\U0010ffff", r"|[ \t\r]+\Z")
            place = bare.end()
            yield name[1].strip(), value
        place += 1


def _unescaped(text: str, which: str, dropped: str = "") -> str:
    """The text without the backslashes before `which` characters, and without line breaks there."""
    return re.sub(
        rf"\\([{which}]){dropped}",
        lambda match: (match[1] or "").replace("\n", ""),
        text,
    )


def say(*urls: str) -> None:
    """Name the storages that a command looks at, and the user as whom."""
    as_whom = f", as {name_of(os.geteuid())}"
    click.echo(f"storage: {' to '.join(map(without_password, urls))}{as_whom}", err=True)


def become_owner(*urls: str) -> None:
    """As root, become the user whose the first local one of some storages is, for good."""
    owner = owner_of(*urls)
    if owner is None or not owner.st_uid or os.geteuid() != 0:
        return
    try:
        user = pwd.getpwuid(owner.st_uid)
    except KeyError:
        group, groups = owner.st_gid, [owner.st_gid]
    else:
        group, groups = user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid)
        os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    os.setgroups(groups)
    os.setgid(group)
    os.setuid(owner.st_uid)
    os.umask(0o027)
    for file in (__file__, os.__file__):  # Python itself may be in root's home
        if not os.access(file, os.R_OK):
            raise SettingError(
                f"{name_of(owner.st_uid)} cannot read {os.path.dirname(file)}: install this where "
                "everybody can, such as in /opt/kazoo-receiver"
            )
