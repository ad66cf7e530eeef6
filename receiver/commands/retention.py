"""The commands that keep, end and check stored recordings."""

import sys
import time
from datetime import UTC, datetime

import click
from flask import current_app
from flask.cli import with_appcontext

from ..parts import Listed, parts
from ..retention import erasure, holds
from ..retention.erasure import Match, Receipt
from ..retention.purge import FOR_EVER, purge
from ..retention.verify import verify
from .common import complain, counted, human_size, local_time, one_line, threads, weighed


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
      kazoo-receiver hold ACCOUNT/USER/abc123@10.0.0.1.mp3 --reason "case 17"
    """
    if release and reason:
        raise click.UsageError("--release takes no --reason")
    with one_line():
        if release:
            paths = holds.release(parts().storage, path)
        else:
            paths = holds.hold(parts().storage, path, " ".join(reason.split()))
    for each in paths:
        click.echo(f"{'released' if release else 'held'}: {each}")
    if not paths:
        click.echo(f"not on hold: {path}")


@click.command("holds")
@with_appcontext
def holds_() -> None:
    """List the recordings on legal hold: since when, which, why."""
    with one_line():
        for each in holds.holds(parts().storage):
            click.echo(f"{each.since or '-'} {each.path}: {each.reason or '-'}")


@click.command("purge")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@with_appcontext
def purge_(dry_run: bool) -> None:
    """Remove the recordings that are older than KZR_KEEP_DAYS, but none on legal hold.

    The age is the time since the storage has the recording. It exits with 1 if anything failed.
    """
    keep_days = current_app.config["KEEP_DAYS"]
    if not keep_days:
        raise click.ClickException(FOR_EVER)
    with one_line(), counted(parts().storage) as bar:
        report = purge(
            parts().storage,
            parts().catalog,
            keep_days,
            time.time(),
            dry_run,
            progress=lambda recording: bar.update(1),
        )
    for each in sorted(report.removed, key=lambda recording: recording.path):
        click.echo(_line(each))
    complain(report.failed)
    click.echo(
        f"{len(report.removed):,} {'to remove' if dry_run else 'removed'}, "
        f"{human_size(report.size)}; "
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
      kazoo-receiver erase --caller +15551234567 > receipt.txt
    """
    if sum(map(bool, (caller, number, call_id))) != 1:
        raise click.UsageError("give one of --caller, --number and --call-id")
    if not call_id and not erasure.digits_of(caller or number):
        raise click.ClickException("the number has to be one of digits")
    wanted = erasure.Wanted(caller, number, call_id)
    with one_line(), counted(parts().storage, err=True) as bar:
        found = erasure.find(parts().storage, wanted, progress=lambda recording: bar.update(1))
    for match in found.matches:
        click.echo(_line(match), err=True)
    if found.matches and not yes:
        click.confirm(f"Erase {len(found.matches):,} recordings?", abort=True, err=True)
    with one_line():
        running = parts()
        failed = erasure.erase(
            running.storage, running.catalog, running.jobs, wanted, found, _print_receipt
        )
    complain(found.failed + failed)
    click.echo(f"{len(found.matches):,} found, {len(found.failed + failed):,} failed", err=True)
    sys.exit(bool(found.failed or failed))


def _print_receipt(receipt: Receipt) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    beside = ",".join(receipt.beside) or "-"
    click.echo(
        f"{now} erased {receipt.path} size={receipt.size} sha256={receipt.sha256} beside={beside}"
    )


@click.command("verify")
@threads
@with_appcontext
def verify_(threads: int) -> None:
    """Read every recording again, and tell which is not as it was.

    That is: changed since its SHA-256 was kept, unreadable, or, where there is a catalog, missing
    from the storage or from the catalog. It exits with 1 if there is any.
    """
    with one_line(), weighed(parts().storage) as bar:
        report = verify(
            parts().storage,
            parts().catalog,
            time.time(),
            threads=threads,
            progress=lambda recording: bar.update(recording.size),
        )
    for line in sorted(report.wrong):
        click.echo(line)
    click.echo(
        f"{report.read:,} read, {report.without:,} of them without a checksum; "
        f"{len(report.wrong):,} wrong"
    )
    sys.exit(bool(report.wrong))


def _line(recording: Listed | Match) -> str:
    when = local_time(recording.modified)
    return f"{recording.path}: {human_size(recording.size)}, of {when}"
