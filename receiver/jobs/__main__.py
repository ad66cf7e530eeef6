"""The worker: `python -m receiver.jobs`."""

import argparse
import logging
from typing import TYPE_CHECKING, cast

from .. import create_app
from ..errors import SettingError
from ..parts import Parts

if TYPE_CHECKING:
    from .work import Jobs


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m receiver.jobs",
        description="Do what the receiver's settings ask for after a recording is stored.",
    )
    parser.add_argument("--threads", type=int, default=4, help="jobs at a time (default: 4)")
    threads = parser.parse_args().threads
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("huey").setLevel(logging.WARNING)
    try:
        running: Parts = create_app().extensions["receiver"]
        if running.jobs is None:
            raise SettingError("nothing is to be done after storing: see KZR_ON_STORED")
        cast("Jobs", running.jobs).work(threads)
    except SettingError as error:
        raise SystemExit(f"receiver: {error}") from None


if __name__ == "__main__":
    main()
