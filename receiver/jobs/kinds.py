"""The kinds of work that the settings ask for, for each recording once it is stored.

Each is a call that may be repeated. What it raises is a reason to try again later; that a recording
was deleted meanwhile is none.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..errors import NotStored
from ..parts import Parts
from .checksum import keep_checksum
from .command import run_command
from .event import Event, Work, open_recording

KINDS = ("checksum", "command", "webhook", "transcription")  # all that there are
GONE = "the recording is gone"


def kinds(config: Mapping[str, Any], parts: Parts) -> dict[str, Work]:
    """The kinds of work that the settings ask for, by name, in the order to begin them in.

    Raises `SettingError` for settings that cannot be used together.
    """
    work: dict[str, Work] = {}
    if config["CHECKSUMS"]:
        work["checksum"] = partial(keep_checksum, parts)
    if config["ON_STORED"]:
        work["command"] = partial(run_command, parts, config["ON_STORED"])
    if config["WEBHOOK_URL"]:
        from .webhook import Webhook

        work["webhook"] = Webhook(config, parts)
    if config["TRANSCRIBE_URL"]:
        from .transcription import Transcription

        work["transcription"] = Transcription(config, parts)
    return {name: partial(_unless_gone, parts, each) for name, each in work.items()}


def _unless_gone(parts: Parts, work: Work, event: Event) -> str:
    try:
        return work(event)
    except NotStored:
        try:
            open_recording(parts.storage, event)[1].close()
        except NotStored:
            return GONE
        raise  # another took its name meanwhile: it is found under its new one
