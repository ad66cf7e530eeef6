"""Workers of jobs are killed and clocks are set, and many uploads of one name come at once.

These are tests/jobs' own tests, for longer: in a file, PostgreSQL and MariaDB each kind of job of
every acknowledged recording must be done, none given up, and none twice without a kill between;
in every storage each of 20 different uploads of one name at a time must have its jobs.

    python tests/proof/jobs.py --seconds 60 --rounds 100
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from report import HEAD, tell

TESTS = Path(__file__).parents[1]
KILLS = "jobs/test_jobs_kill.py"
ROUNDS = "jobs/test_jobs.py"
AT_ONCE = "at_once"


def run(test: str, *options: str, **environ: object) -> tuple[bool, str]:
    """Run tests; return whether they passed, and what they printed."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-s",
            "-p",
            "no:cacheprovider",
            f"tests/{test}",
            *options,
        ],
        cwd=TESTS.parent,
        env=os.environ | {name: str(value) for name, value in environ.items()} | {"CI": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout, file=sys.stderr)
    return done.returncode == 0, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of kills, on each database")
    parser.add_argument("--rounds", type=int, default=100, help="of 20 uploads, on each storage")
    given = parser.parse_args()
    kills_passed, printed = run(KILLS, JOBS_KILL_SECONDS=given.seconds)
    figures = re.findall(
        r"(\d+) acknowledged, (\d+) of workers and (\d+) of receivers killed; "
        r"delivered twice: (\d+) webhooks, (\d+) commands",
        printed,
    )
    stored, workers, receivers, hooks, commands = (
        sum(map(int, each)) for each in zip(*figures, strict=True)
    )
    rounds_passed, _ = run(ROUNDS, "-k", AT_ONCE, JOBS_ROUNDS=given.rounds)
    print(HEAD)
    tell(
        f"Jobs: workers and receivers killed, clocks set back and on, {given.seconds:.0f} s each: "
        "a queue in a file, in PostgreSQL, in MariaDB",
        f"{stored} acknowledged, {workers} of workers and {receivers} of receivers killed; "
        f"{hooks} webhooks and {commands} commands twice, after a kill",
        kills_passed,
    )
    tell(
        "Jobs: 20 different uploads of one name at a time: a folder, S3, PostgreSQL, MariaDB",
        f"{given.rounds} rounds each",
        rounds_passed,
    )
    return 0 if kills_passed and rounds_passed else 1


if __name__ == "__main__":
    sys.exit(main())
