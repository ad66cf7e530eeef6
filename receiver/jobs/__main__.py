"""The worker: `python -m receiver.jobs` is `kazoo-receiver worker`."""

import sys

from ..shell import main

if __name__ == "__main__":
    main(["worker", *sys.argv[1:]], prog_name="python -m receiver.jobs")
