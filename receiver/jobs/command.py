"""Runs a command for each recording."""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing, suppress

from ..parts import Parts
from .event import Event, JobFailed, metadata_of, open_recording, printable_lines
from .files import local_file, private_folder

COMMAND_SECONDS = 600
TAIL = 2048  # bytes of a command's output that are kept
PIPE = 64 * 1024  # bytes; what a pipe holds
METADATA = "metadata.json"
LONGEST_VARIABLE = 32 * 1024  # bytes; Linux takes no more than 128 KiB of one
# What the receiver's own environment may tell about its storage.
_SECRET = ("KZR_", "AWS_", "AZURE_", "GOOGLE_", "PGPASS")


def run_command(parts: Parts, arguments: Sequence[str], event: Event) -> str:
    """Run a command for a recording, and return its last words; it must exit with status 0.

    The recording is at `$RECORDING_PATH`, for reading and as long as the command runs, whatever
    takes its name meanwhile.
    """
    storage = parts.storage
    path, recording = open_recording(storage, event)
    with closing(recording), private_folder(storage) as folder:
        file = local_file(storage, recording, path, folder)
        about = json.dumps(metadata_of(storage, path, event), ensure_ascii=False)
        metadata = about.encode("utf-8", "replace")
        (folder / METADATA).write_bytes(metadata)
        told = {
            "RECORDING_PATH": os.fsencode(file),
            "RECORDING_NAME": path.encode(),
            "RECORDING_METADATA_PATH": os.fsencode(folder / METADATA),
            "RECORDING_OUTCOME": event.outcome.encode(),
        }
        if len(metadata) <= LONGEST_VARIABLE:
            told["RECORDING_METADATA"] = metadata
        return run(arguments, told)


def run(arguments: Sequence[str], told: dict[str, bytes]) -> str:
    """Run a command, with `told` in an environment that holds no secrets of the receiver.

    It ends, with whatever it started in its process group, after `COMMAND_SECONDS`; what it leaves
    in the background ends with it. Raises `JobFailed` unless its exit status is 0.
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
        raise JobFailed(f"cannot run {arguments[0]}: {error.strerror}") from error
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
        raise JobFailed(": ".join([reason, *lines[-1:]]))
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
