"""The README's example of a command, as printed, where the shipped unit lets it write."""

import re
import subprocess

import pytest

pytest.importorskip("sqlalchemy")

from support.fronts import installed
from support.needs import need, need_root
from support.paths import PROJECT

UNIT = (PROJECT / "deploy" / "receiver-jobs.service").read_text()
README = (PROJECT / "receiver" / "jobs" / "README.md").read_text()
# A machine of its own: what systemd makes read-only for the unit is, and its user is the unit's.
SCRIPT = """
set -eu
mount --make-rprivate /
for place in /srv /opt /usr/local/bin; do mount -t tmpfs none "$place"; done
mkdir /opt/kazoo-receiver
mount --bind "$INSTALLED" /opt/kazoo-receiver
cd /opt/kazoo-receiver
install -d -o www-data -g www-data /srv/recordings
{example}
export KZR_STORAGE=/srv/recordings KZR_ON_STORED=/usr/local/bin/archive
as_service="setpriv --reuid {user} --regid {user} --init-groups"
$as_service .venv/bin/python -c "
from receiver import create_app
receiver = create_app().test_client()
assert receiver.put('/kzr/ACCOUNT/call_recording_x.mp3', data=b'audio').status_code == 201
"
for place in {writable}; do mount --bind "$place" "$place"; done
for place in / /srv /opt /usr/local/bin; do mount -o remount,bind,ro "$place"; done
$as_service {command} &
worker=$!
for _ in $(seq 600); do
    [ -e /srv/archive/ACCOUNT/x.mp3 ] && break
    sleep 0.1
done
kill $worker
wait $worker
find /srv/archive -type f -exec cat {{}} +
"""


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def test_archive_is_written_under_the_unit():
    need_root()
    (example,) = re.findall(r"```sh\n(install [^`]*)```", README)
    assert setting("ProtectSystem") == ["strict"]
    script = SCRIPT.format(
        example=example,
        user=setting("User")[0],
        writable=" ".join(path.lstrip("-") for path in setting("ReadWritePaths")),
        command=setting("ExecStart")[0],
    )
    done = subprocess.run(
        [need("unshare"), "--mount", "sh", "-c", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "INSTALLED": str(installed())},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "audio", done.stderr
    assert done.returncode == 0
