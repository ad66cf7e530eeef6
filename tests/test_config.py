"""Settings: what they become, and how a wrong one stops the start."""

import subprocess
import sys
from ipaddress import ip_network

import pytest

from receiver import config
from receiver.errors import SettingError
from support.paths import PROJECT


def test_defaults_need_no_setting():
    settings = config.load()
    assert settings["STORAGE"] == "recordings"
    assert settings["URL_PREFIX"] == "/kzr"
    assert settings["CHUNK_SIZE"] == 1024


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MAX_BYTES", "500M", 500 * 1024**2),
        ("MAX_BYTES", "2 GiB", 2 * 1024**3),
        ("MIN_FREE", "0", 0),
        ("MIN_FREE", "1000", 1000),
        ("URL_PREFIX", "/", ""),
        ("URL_PREFIX", "/kzr/", "/kzr"),
        ("WRITERS", "kazoo:a:b fs:c;d", {"kazoo": "a:b", "fs": "c;d"}),
        ("ALLOW_FROM", "10.0.0.0/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
    ],
)
def test_text_becomes_a_value(name, text, value):
    assert config.load({name: text})[name] == value


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("", {}),
        ("365", {"": 365}),
        ("365 A=30", {"": 365, "A": 30}),
        (" A=30\n\tB=0007 ", {"A": 30, "B": 7}),
        ("36500", {"": 36_500}),
    ],
)
def test_days_to_keep_recordings_are_by_account(text, days):
    assert config.load({"KEEP_DAYS": text})["KEEP_DAYS"] == days


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("365 30", "all others has two numbers of days: keep one"),
        ("365 365", "all others has two numbers of days: keep one"),
        ("A=1 A=2", "A has two numbers of days: keep one"),
        ("A=1 7 A=1", "A has two numbers of days: keep one"),
        ("=30", "=30 names no account: write ACCOUNT=DAYS"),
        ("365 =30", "=30 names no account: write ACCOUNT=DAYS"),
        *(
            (text, f"{text}: expected days from 1 to 36500, or ACCOUNT=DAYS")
            for text in (
                *("-1", "A=-1", "+30", "0", "A=0", "365d", "365,30", "A=", "A", "A==3", "A=B=3"),
                *("36501", "A=99999999999999999999", "1e3", "1.5", "\u0663", "\u00b3", "3_0"),
                "9" * 5000,
            )
        ),
        ("A = 30", "A: expected days from 1 to 36500, or ACCOUNT=DAYS"),
    ],
)
def test_days_that_are_ambiguous_or_out_of_reason_are_refused(text, reason):
    with pytest.raises(SettingError) as error:
        config.load({"KEEP_DAYS": text})
    assert str(error.value) == f"KZR_KEEP_DAYS={text}: {reason}"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("MAX_BYTES", "lots", "KZR_MAX_BYTES=lots: expected a size in bytes, such as 100M or 2G"),
        ("CHUNK_SIZE", "0", "KZR_CHUNK_SIZE=0: expected a whole number above 0"),
        ("TRUSTED_PROXIES", "-1", "KZR_TRUSTED_PROXIES=-1: expected a whole number"),
        ("ON_CONFLICT", "x", "KZR_ON_CONFLICT=x: expected keep-both or refuse"),
        ("URL_PREFIX", "kzr", "KZR_URL_PREFIX=kzr: expected the path of a URL, such as /kzr"),
        ("WRITERS", "secret", "KZR_WRITERS=...: expected user:secret, several separated by spaces"),
        ("STORGE", "x", "KZR_STORGE is not a setting of the receiver; did you mean KZR_STORAGE?"),
        ("DEBUG", "1", "KZR_DEBUG is not a setting of the receiver"),
    ],
)
def test_wrong_setting_is_named_with_what_was_expected(monkeypatch, name, text, complaint):
    monkeypatch.setenv(f"KZR_{name}", text)
    with pytest.raises(SettingError) as error:
        config.load()
    assert str(error.value) == complaint


def test_network_with_host_bits_is_explained():
    with pytest.raises(SettingError, match="10.0.0.1/8 has host bits set"):
        config.load({"ALLOW_FROM": "10.0.0.1/8"})


def test_wrong_setting_stops_the_start_with_one_line(tmp_path):
    result = subprocess.run(
        [sys.executable, PROJECT / "app.py"],
        env={"KZR_MIN_FREE": "much", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    complaint = "receiver: KZR_MIN_FREE=much: expected a size in bytes, such as 100M or 2G\n"
    assert result.stderr == complaint


def test_storage_that_cannot_be_written_stops_the_start(tmp_path):
    (tmp_path / "file").touch()
    result = subprocess.run(
        [sys.executable, PROJECT / "app.py"],
        env={"KZR_STORAGE": str(tmp_path / "file"), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(
        f"receiver: KZR_STORAGE={tmp_path}/file: could not store: Not a directory"
    )
    assert result.stderr.count("\n") == 1


def test_readme_lists_every_setting_with_its_default():
    rows = (PROJECT / "receiver" / "README.md").read_text().splitlines()
    assert [row for row in rows if row.startswith("| `KZR_")] == [
        row_of(setting) for setting in config.SETTINGS
    ]


def test_short_table_tells_the_same():
    rows = (PROJECT / "README.md").read_text().splitlines()
    short = [row for row in rows if row.startswith("| `KZR_")]
    assert len(short) >= 12
    assert set(short) <= {row_of(setting) for setting in config.SETTINGS}


def row_of(setting: config.Setting) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    return f"| `KZR_{setting.name}` | {default} | {setting.meaning} |"
