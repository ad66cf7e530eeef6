"""The commands that keep, end and check stored recordings."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from ..numbers import digits_of
from ..parts import Listed, parts
from ..retention import erasure, holds
from ..retention.erasure import Match, Receipt
from ..retention.purge import (
    FOR_EVER,
    Purged,
    Removal,
    Unconfirmed,
    doubts,
    purge,
    purge_carefully,
)
from ..retention.verify import Report, verify
from ..shown import shown
from ..storage.purges import noted
from .common import abandon, complain, counted, human_size, local_time, one_line, threads, weighed


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
        click.echo(f"{'released' if release else 'held'}: {shown(each)}")
    if not paths:
        click.echo(f"not on hold: {shown(path)}")


@click.command("holds")
@with_appcontext
def holds_() -> None:
    """List the recordings on legal hold: since when, which, why.

    It exits with 1 if that cannot be told of any.
    """
    failed: list[str] = []

    def odd(path: str, error: Exception) -> None:
        failed.append(shown(f"{path}: {error}" if path else error))

    with one_line():
        for each in holds.holds(parts().storage, odd=odd):
            click.echo(shown(f"{each.since or '-'} {each.path}: {each.reason or '-'}"))
    complain(failed)
    sys.exit(bool(failed))


@click.command("purge")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@click.option("--confirm", is_flag=True, help="All that is listed is meant to go, this once.")
@with_appcontext
def purge_(dry_run: bool, confirm: bool) -> None:
    """Remove the recordings that are older than KZR_KEEP_DAYS, but none on legal hold.

    The age is the time since the storage has the recording. Nothing is removed where a wrong clock
    or setting may be why so much is to go: look with --dry-run, and --confirm it once. It exits
    with 1 if that is so, or anything failed.
    """
    if dry_run and confirm:
        raise click.UsageError("give one of --dry-run and --confirm")
    keep_days = current_app.config["KEEP_DAYS"]
    if not keep_days:
        raise click.ClickException(FOR_EVER)
    with one_line():
        output, now, storage = _Output(), time.time(), parts().storage

    def tell(removal: Removal) -> None:
        output(f"{_line(removal)}, rule {removal.days} days")

    why = ""
    with one_line(), _finished(), counted(storage) as bar:

        def progress(recording: Listed) -> None:
            output.quietly(lambda: bar.update(1))

        if dry_run:
            report = purge(storage, None, keep_days, now, True, removed=tell, progress=progress)
            why = doubts(report, noted(storage), keep_days, now)
        else:
            try:
                report = purge_carefully(
                    storage,
                    parts().catalog,
                    keep_days,
                    now,
                    confirmed=confirm,
                    removed=tell,
                    progress=progress,
                )
            except Unconfirmed as error:
                raise click.ClickException(str(error)) from None
    complain(report.failed)
    output(_summary(report, "to remove" if dry_run else "removed"))
    if why:
        complain([f"a purge would remove nothing: {why}: run purge --confirm once if it is to go"])
    sys.exit(bool(report.failed or why or output.failed))


def _summary(report: Purged, what: str) -> str:
    return (
        f"{len(report.removed):,} {what}, {human_size(report.size)}; "
        f"{len(report.held):,} on hold, {len(report.failed):,} failed"
    )


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
    if not call_id and not digits_of(caller or number):
        raise click.ClickException("the number has to be one of digits")
    wanted = erasure.Wanted(caller, number, call_id)
    with one_line(), counted(parts().storage, err=True) as bar:
        found = erasure.find(parts().storage, wanted, progress=lambda recording: bar.update(1))
    for match in found.matches:
        click.echo(_line(match), err=True)
    if found.matches and not yes:
        click.confirm(f"Erase {len(found.matches):,} recordings?", abort=True, err=True)
    output = _Output()
    with one_line(), _finished():
        running = parts()
        failed = erasure.erase(
            running.storage,
            running.catalog,
            running.jobs,
            wanted,
            found,
            lambda receipt: output(_receipt(receipt)),
        )
    left = found.failed + found.unclear + failed
    output.quietly(lambda: complain(left))
    counts = f"{len(found.matches):,} found, {len(found.failed + failed):,} failed"
    if found.unclear:
        counts += f", {len(found.unclear):,} to look at"
    output.quietly(lambda: click.echo(counts, err=True))
    sys.exit(bool(left or output.failed))


def _receipt(receipt: Receipt) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    beside = ",".join(receipt.beside) or "-"
    path = shown(receipt.path)
    return f"{now} erased {path} size={receipt.size} sha256={receipt.sha256} beside={beside}"


class _Output:
    """Lines that tell of what cannot be undone: on stdout, or else on stderr; `failed` says so."""

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, line: str) -> None:
        if not self.failed:
            try:
                click.echo(line)
                return
            except OSError as error:
                self.failed = True
                abandon(sys.stdout)
                reason = f"the output cannot be written: {error.strerror}: what follows was done"
                self.quietly(lambda: click.echo(reason, err=True))
        self.quietly(lambda: click.echo(line, err=True))

    def quietly(self, write: Any) -> None:
        """Write something, and go on where that fails."""
        try:
            write()
        except OSError:
            self.failed = True
            abandon(sys.stderr)


@contextmanager
def _finished() -> Iterator[None]:
    """Let a closed terminal or a stop end the work as Ctrl-C does: between two recordings."""
    ends = (signal.SIGHUP, signal.SIGTERM)
    signals = [each for each in ends if signal.getsignal(each) is not signal.SIG_IGN]  # of nohup

    def stop(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # one is enough
        raise SystemExit(128 + number)

    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@click.command("verify")
@threads
@with_appcontext
def verify_(threads: int) -> None:
    """Read every recording again, and tell which is not as it was.

    That is: changed since its SHA-256 or size was kept, unreadable, metadata alone, or, where there
    is a catalog, missing from the storage or from the catalog. It exits with 1 if there is any, or
    if there is no checksum to compare any recording with: see KZR_CHECKSUMS.
    """
    with one_line(), weighed(parts().storage) as bar:
        report = verify(
            parts().storage,
            parts().catalog,
            time.time(),
            threads=threads,
            progress=lambda recording: bar.update(recording.size),
        )
    with one_line():
        for line in [*sorted(report.wrong), _result(report)]:
            click.echo(line)
    sys.exit(bool(report.wrong or report.is_uncompared))


def _result(report: Report) -> str:
    wrong = f"{len(report.wrong):,} wrong"
    if not report.is_uncompared:
        return f"{report.read:,} read, {report.without:,} of them without a checksum; {wrong}"
    read = (
        f"{report.read:,} could be read, but no changed byte be seen: there is no checksum of any"
    )
    return f"{read}, see KZR_CHECKSUMS" + (f"; {wrong}" if report.wrong else "")


def _line(recording: Match | Removal) -> str:
    try:
        when = local_time(recording.modified)
    except (OverflowError, ValueError, OSError):
        when = "no time that a calendar has"
    return f"{shown(recording.path)}: {human_size(recording.size)}, of {when}"
