"""The commands that keep, end and check stored recordings: `flask --app app COMMAND`."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from flask import current_app
from flask.cli import with_appcontext
from jinja2.filters import do_filesizeformat

from .common import _errors

if TYPE_CHECKING:
    from ..retention.erasure import Match, Receipt
    from ..storage import Listed, Storage


@click.command("hold")
@click.argument("path")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.option("--release", is_flag=True, help="End the hold.")
@with_appcontext
def hold_(path: str, reason: str, release: bool) -> None:
    """Keep the recording at a stored PATH from purge and erase.

    Every recording that has or had its name is held: superseded ones too. One that is stored under
    the name later is not.

    \b
    Example:
      flask --app app hold ACCOUNT/USER/abc123@10.0.0.1.mp3 --reason "case 17"
    """
    from ..retention import holds

    if release and reason:
        raise click.UsageError("--release takes no --reason")
    storage = current_app.extensions["storage"]
    with _errors():
        if release:
            paths = holds.release(storage, path)
        else:
            paths = holds.hold(storage, path, " ".join(reason.split()))
    for each in paths:
        click.echo(f"{'released' if release else 'held'}: {each}")
    if not paths:
        click.echo(f"not on hold: {path}")


@click.command("holds")
@with_appcontext
def holds_() -> None:
    """List the recordings on legal hold: since when, which, why."""
    from ..retention.holds import holds

    with _errors():
        for each in holds(current_app.extensions["storage"]):
            click.echo(f"{each.since or '-'} {each.path}: {each.reason or '-'}")


@click.command("purge")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@with_appcontext
def purge_(dry_run: bool) -> None:
    """Remove the recordings that are older than KZR_KEEP_DAYS, but none on legal hold.

    The age is the time since the storage has the recording. It exits with 1 if anything failed.
    """
    from ..retention.purge import FOR_EVER, purge

    keep_days = current_app.config["KEEP_DAYS"]
    if not keep_days:
        raise click.ClickException(FOR_EVER)
    storage = current_app.extensions["storage"]
    with _errors(), _counted(storage) as bar:
        report = purge(
            storage,
            current_app.extensions.get("catalog"),
            keep_days,
            time.time(),
            dry_run,
            progress=lambda recording: bar.update(1),
        )
    for each in sorted(report.removed, key=lambda recording: recording.path):
        click.echo(_line(each))
    _complain(report.failed)
    click.echo(
        f"{len(report.removed):,} {'to remove' if dry_run else 'removed'}, "
        f"{do_filesizeformat(report.size)}; "
        f"{len(report.held):,} on hold, {len(report.failed):,} failed"
    )
    sys.exit(bool(report.failed))


@click.command("erase")
@click.option("--caller", default="", help="The caller's number.")
@click.option("--number", default="", help="The number of the caller or the callee.")
@click.option("--call-id", default="", help="The Call-ID, whole.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_appcontext
def erase_(caller: str, number: str, call_id: str, yes: bool) -> None:
    """Erase all recordings of somebody, with all that is kept about them, and print a receipt.

    What is stored and matches is listed first. A number is compared by all of its digits, whatever
    stands between them, with the caller's and callee's numbers and with SIP addresses. Recordings
    on legal hold are left. It exits with 1 if anything is left, and may be repeated.

    \b
    Example:
      flask --app app erase --caller +15551234567 > receipt.txt
    """
    from ..retention import erasure

    if sum(map(bool, (caller, number, call_id))) != 1:
        raise click.UsageError("give one of --caller, --number and --call-id")
    if not call_id and not erasure.digits_of(caller or number):
        raise click.UsageError("the number has to be one of digits")
    wanted = erasure.Wanted(caller, number, call_id)
    extensions = current_app.extensions
    storage = extensions["storage"]
    with _errors(), _counted(storage, err=True) as bar:
        found = erasure.find(storage, wanted, progress=lambda recording: bar.update(1))
    for match in found.matches:
        click.echo(_line(match), err=True)
    if found.matches and not yes:
        click.confirm(f"Erase {len(found.matches):,} recordings?", abort=True, err=True)
    with _errors():
        catalog, jobs = extensions.get("catalog"), extensions.get("jobs")
        failed = erasure.erase(storage, catalog, jobs, wanted, found, _print_receipt)
    _complain(found.failed + failed)
    click.echo(f"{len(found.matches):,} found, {len(found.failed + failed):,} failed", err=True)
    sys.exit(bool(found.failed or failed))


def _print_receipt(receipt: "Receipt") -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    beside = ",".join(receipt.beside) or "-"
    click.echo(
        f"{now} erased {receipt.path} size={receipt.size} sha256={receipt.sha256} beside={beside}"
    )


@click.command("verify")
@click.option("--jobs", default=4, show_default=True, help="Recordings to read at a time.")
@with_appcontext
def verify_(jobs: int) -> None:
    """Read every recording again, and tell which is not as it was.

    That is: changed since its SHA-256 was kept, unreadable, or, where there is a catalog, missing
    from the storage or from the catalog. It exits with 1 if there is any.
    """
    from ..retention.verify import verify

    storage = current_app.extensions["storage"]
    with _errors():
        count, total = _measure(storage)
        label = f"{count:,} recordings, {do_filesizeformat(total)}"
        with click.progressbar(length=total, label=label) as bar:
            report = verify(
                storage,
                current_app.extensions.get("catalog"),
                time.time(),
                jobs=jobs,
                progress=lambda recording: bar.update(recording.size),
            )
    for line in sorted(report.wrong):
        click.echo(line)
    click.echo(
        f"{report.read:,} read, {report.without:,} of them without a checksum; "
        f"{len(report.wrong):,} wrong"
    )
    sys.exit(bool(report.wrong))


@contextmanager
def _counted(storage: "Storage", *, err: bool = False) -> Iterator[Any]:
    """Show how many of all recordings are done."""
    count, _ = _measure(storage)
    file = sys.stderr if err else sys.stdout
    with click.progressbar(length=count, label=f"{count:,} recordings", file=file) as bar:
        yield bar


def _measure(storage: "Storage") -> tuple[int, int]:
    """The number of recordings, and their bytes."""
    count = total = 0
    for recording in storage.scan():
        count += 1
        total += recording.size
    return count, total


def _line(recording: "Listed | Match") -> str:
    when = datetime.fromtimestamp(recording.modified).isoformat(" ", "seconds")
    return f"{recording.path}: {do_filesizeformat(recording.size)}, of {when}"


def _complain(lines: list[str]) -> None:
    for line in sorted(lines):
        click.echo(line, err=True)


COMMANDS = (hold_, holds_, purge_, erase_, verify_)
