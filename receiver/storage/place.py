"""Whether a folder is the place that recordings were stored in, or a hole where its disk was."""

import os
import re
from contextlib import suppress
from pathlib import Path

from ..core.publish import FILE_MODE, REFUSE_LINKS

MARKER = ".kazoo-receiver"  # a file with a random id, by which a storage knows itself again
FSTAB = Path("/etc/fstab")
LOST_AND_FOUND = "lost+found"  # what a new file system has
NONE_THERE = (
    "there is no storage, and KZR_STORAGE_NEW=no: mount its disk; "
    "kazoo-receiver init makes a new one"
)


def id_in(root: int) -> str | None:
    """The id of the storage in an open folder, None where it has none."""
    with suppress(FileNotFoundError):
        with open(os.open(MARKER, os.O_RDONLY | REFUSE_LINKS, dir_fd=root)) as marker:
            return marker.read(100).strip()
    return None


def mark(root: int) -> str:
    """Give the storage in an open folder an id, unless it has one, and return that."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | REFUSE_LINKS
    with suppress(FileExistsError):  # another process was faster
        with open(os.open(MARKER, flags, FILE_MODE, dir_fd=root), "w") as marker:
            marker.write(os.urandom(16).hex() + "\n")
    return id_in(root) or ""


def is_storage(folder: Path) -> bool:
    """Whether a folder has an id, or holds something: a storage of before there were ids."""
    with suppress(FileNotFoundError):
        return any(
            name == MARKER or name[0] != "." for name in {*os.listdir(folder)} - {LOST_AND_FOUND}
        )
    return False


def unmounted(folder: Path) -> str | None:
    """The mount point of /etc/fstab that a folder lies on and that nothing is mounted at."""
    real = Path(os.path.realpath(folder))  # a link may lead to the disk
    places = {real, *real.parents}
    missing = (
        str(each) for each in _mount_points() if each in places and not os.path.ismount(each)
    )
    return next(missing, None)


def mounted_below(folder: Path) -> list[str]:
    """The folders in a storage that have disks of their own in /etc/fstab, mounted or not."""
    real = Path(os.path.realpath(folder))
    below = (point for point in _mount_points() if real in point.parents)
    return [str(point.relative_to(real)) for point in below]


def not_mounted(point: object) -> str:
    return f"{point} is in /etc/fstab, but not mounted: mount it"


def _mount_points() -> list[Path]:
    """The mount points of /etc/fstab, but the root's."""
    points = []
    with suppress(OSError):
        for line in FSTAB.read_text(errors="surrogateescape").splitlines():
            fields = line.split("#")[0].split()
            point = Path(_unescaped(fields[1])) if len(fields) > 1 else Path("none")
            if point.is_absolute() and point != Path("/"):
                points.append(Path(os.path.realpath(point)))  # `mount` follows links, too
    return points


def _unescaped(field: str) -> str:
    """A field of /etc/fstab, in which a space is `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
