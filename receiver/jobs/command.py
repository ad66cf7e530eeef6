"""What is done for each recording once it is stored, as far as the settings ask for it.

Each kind of work is a call that may be repeated. What it raises is a reason to try again later;
that a recording was deleted meanwhile is none.
"""

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog.description import LONGEST_SIDECAR, describe, read_metadata
from ..core.naming import extension_of, sidecar
from ..errors import NotStored
from ..senders.metadata import to_bytes
from ..storage import Listed, Recording, Storage
from ..storage.base import sha256_of
from .work import Event, Work, open_recording

if TYPE_CHECKING:
    from ..catalog.catalog import Catalog

COMMAND_SECONDS = 600
TAIL = 2048  # bytes of a command's output that are kept
PIPE = 64 * 1024  # bytes; what a pipe holds
CHUNK = 256 * 1024  # bytes
GONE = "the recording is gone"
# What the receiver's own environment may tell about its storage.
_SECRET = ("KZR_", "AWS_", "AZURE_", "GOOGLE_", "PGPASS")


class HookFailed(Exception):
    """Work was not done, for the reason that is told in one line; it may be tried again."""


def kinds(
    config: Mapping[str, Any], storage: Storage, catalog: "Catalog | None"
) -> dict[str, Work]:
    """The kinds of work that the settings ask for, by name, in the order to begin them in.

    Raises `SettingError` for settings that cannot be used together.
    """
    work: dict[str, Work] = {}
    if config["CHECKSUMS"]:
        work["checksum"] = partial(keep_checksum, storage, catalog)
    if config["ON_STORED"]:
        work["command"] = partial(run_command, storage, config["ON_STORED"])
    if config["WEBHOOK_URL"]:
        from .webhook import Webhook

        work["webhook"] = Webhook(config, storage)
    if config["TRANSCRIBE_URL"]:
        from .transcription import Transcription

        work["transcription"] = Transcription(config, storage, catalog)
    return {name: partial(_unless_gone, storage, each) for name, each in work.items()}


def _unless_gone(storage: Storage, work: Work, event: Event) -> str:
    try:
        return work(event)
    except NotStored:
        try:
            open_recording(storage, event)[1].close()
        except NotStored:
            return GONE
        raise  # another took its name meanwhile: it is found under its new one


def keep_checksum(storage: Storage, catalog: "Catalog | None", event: Event) -> str:
    """Write the SHA-256 of a recording into its metadata, beside what the sender told."""
    path, recording = open_recording(storage, event)
    with closing(recording):
        digest = digest_of(recording)
    told = read_metadata(storage, path)
    if not told and _is_unreadable(storage, path):
        raise HookFailed(f"{sidecar(path, 'json')} is no JSON object: it was left as it is")
    if told.get("sha256") != digest:
        storage.attach(path, "json", to_bytes(told | {"sha256": digest}), event.etag)
    refresh(storage, catalog, path)
    return digest


def digest_of(recording: Recording) -> str:
    """The SHA-256 of a recording that was opened and not read."""
    return sha256_of(recording.file)


def _is_unreadable(storage: Storage, path: str) -> bool:
    with suppress(NotStored), closing(storage.open(sidecar(path, "json"))) as text:
        return text.size > LONGEST_SIDECAR or text.file.read(LONGEST_SIDECAR).strip() != b"{}"
    return False


def refresh(storage: Storage, catalog: "Catalog | None", path: str) -> None:
    """Tell the catalog, if there is one, what is known now of what is stored at `path`."""
    if catalog is None:
        return
    known = None
    for _ in range(4):
        with closing(storage.open(path)) as recording:
            listed = Listed(path, recording.size, recording.modified)
        found = describe(storage, listed)
        if found == known:
            break
        catalog.add([found])
        known = found  # unless other work attached something before this was added


def metadata_of(storage: Storage, path: str, event: Event) -> dict[str, Any]:
    """What the sender told, as JSON that every program can read: without NaN and Infinity."""
    read = json.dumps(read_metadata(storage, path))
    with closing(storage.open(path)) as recording:
        if recording.etag != event.etag:
            raise NotStored(f"another recording is stored as {path}")  # and that was told of it
    told: dict[str, Any] = json.loads(read, parse_constant=str)
    return told


def run_command(storage: Storage, arguments: Sequence[str], event: Event) -> str:
    """Run a command for a recording, and return its last words; it must exit with status 0.

    The recording is at `$RECORDING_PATH`, for reading and as long as the command runs.
    """
    path, recording = open_recording(storage, event)
    with closing(recording), _local_file(storage, recording, path) as file:
        metadata = json.dumps(metadata_of(storage, path, event), ensure_ascii=False)
        return run(
            arguments,
            {
                "RECORDING_PATH": os.fsencode(file),
                "RECORDING_NAME": path.encode(),
                "RECORDING_METADATA": metadata.encode("utf-8", "replace"),
                "RECORDING_OUTCOME": event.outcome.encode(),
            },
        )


@contextmanager
def _local_file(storage: Storage, recording: Recording, path: str) -> Iterator[Path]:
    """The recording's own file, or else a copy of it that has its extension."""
    if recording.path is not None:
        yield recording.path
        return
    storage.check_space(recording.size)
    ending = f".{extension_of(path)}" if extension_of(path) else ""
    with tempfile.NamedTemporaryFile(suffix=ending, dir=storage.spool) as copy:
        while chunk := recording.file.read(CHUNK):
            copy.write(chunk)
        copy.flush()
        yield Path(copy.name)


def run(arguments: Sequence[str], told: dict[str, bytes]) -> str:
    """Run a command, with `told` in an environment that holds no secrets of the receiver.

    It ends, with whatever it started in its process group, after `COMMAND_SECONDS`; what it leaves
    in the background ends with it. Raises `HookFailed` unless its exit status is 0.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET)}
    environ: dict[str, str | bytes] = {**own, **told}
    try:
        process = subprocess.Popen(  # noqa: S603 - no shell, and KZR_ON_STORED names the command
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,  # which begins a process group
            env=environ,
        )
    except OSError as error:
        raise HookFailed(f"cannot run {arguments[0]}: {error.strerror}") from error
    with process:
        ended, output = _watch(process)
    lines = printable_lines(output)
    if not ended:
        reason = f"it still ran after {COMMAND_SECONDS} seconds and was killed"
    elif process.returncode < 0:
        reason = f"killed by signal {-process.returncode}"
    else:
        reason = f"exit status {process.returncode}"
    if not ended or process.returncode:
        raise HookFailed(": ".join([reason, *lines[-1:]]))
    return ": ".join([reason, " / ".join(lines)] if lines else [reason])


def _watch(process: subprocess.Popen[bytes]) -> tuple[bool, bytes]:
    """Wait until a process ends, or its time does; return whether it ended, and its last output."""
    assert process.stdout  # noqa: S101 - for mypy: it is a pipe
    output, tail = process.stdout.fileno(), b""
    deadline = time.monotonic() + COMMAND_SECONDS
    exited = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            selector.register(exited, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left)}
                if output in ready:
                    data = os.read(output, PIPE)
                    tail = (tail + data)[-TAIL:]
                    if not data:
                        selector.unregister(output)
                if exited in ready:  # and so was all that it had left in the pipe
                    return True, tail
        return False, tail
    finally:
        # Before it is waited for, so that the group's number cannot be another's by now.
        with suppress(PermissionError):  # of what became another user's
            os.killpg(process.pid, signal.SIGKILL)
        os.close(exited)


def printable_lines(text: bytes) -> list[str]:
    """The lines of a text from elsewhere, such as logs may hold; without those that are empty."""
    lines = (line.strip() for line in text.decode("utf-8", "replace").splitlines())
    return ["".join(each if each.isprintable() else "?" for each in line) for line in lines if line]
