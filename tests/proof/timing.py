"""Measures whether the time of a refusal tells how near its credentials were.

Refusals of an all wrong secret are compared with those of others: one whose first byte is right,
one of which only the last byte is wrong, one that is longer, and one of a user that does not exist.
They are mixed in random order, in rounds of one of each; the differences within a round count.

What is told is the median difference, and the interval that holds it with 99.99 % certainty (by
order statistics, which take nothing for granted about the noise). A refusal "can be told apart"
unless the interval includes 0 or is within 1 microsecond of it. Secrets are as long as can be, in
the process 64 KiB and over HTTP 3000 bytes, so that what each byte costs adds up. First come
control rounds with comparisons that leak: if they show nothing, the measurement itself is blind.

    python tests/proof/timing.py                    less than a minute
    python tests/proof/timing.py --rounds 200       a first look
"""

import argparse
import base64
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

# The tests and the project, which need not be the one that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from flask import Request
from mutations import ACCESS, Mutation, copy_project
from report import tell
from werkzeug.security import generate_password_hash
from werkzeug.test import EnvironBuilder

from receiver.access import HASH_METHODS, Access
from receiver.errors import Unauthorized
from support import receivers
from support.receivers import Receiver

Z = 3.89  # standard deviations, for 99.99 %
NEGLIGIBLE = 1000  # ns
IN_PROCESS = 64 * 1024  # bytes of a secret
OVER_HTTP = 3000  # a request's header and its line have 8190
USER, NOBODY = "kazoo", "nobod"  # of one length, so that requests are, too
WRONG, NEAR, UNKNOWN = "all wrong", "last byte wrong", "unknown user"

Asked = tuple[str, str, dict[str, str]]  # method, target and headers of a request
Refusal = Callable[[], int]  # makes one, and returns the time that it took, in ns


class Forgetful(Access):
    """Remembers nobody, so that the same refusals can be made again and again."""

    def _is_right(self, what, request, given, known, check):
        return check()


class Leaky(Forgetful):
    """What must be seen: secrets compared with `==`, and only those of users that exist."""

    def _is_known(self, known, user, secret, *, is_read_back=False):
        return user in known and self._matches(known[user], secret, is_read_back)

    def _matches(self, expected, secret, is_read_back):
        if expected.startswith(HASH_METHODS):
            return super()._matches(expected, secret, is_read_back)
        return expected == secret


BYTE_BY_BYTE = Mutation(
    "comparison of a secret in constant time",
    ACCESS,
    "is_it = hmac.compare_digest(expected.encode(), given)",
    "is_it = all(a == b for a, b in zip(expected, secret)) and len(expected) == len(secret)",
    (),
)


@dataclass(frozen=True)
class Difference:
    """By how much (ns) a kind of refusal is slower than that of an all wrong secret."""

    kind: str
    low: int
    median: int
    high: int

    @property
    def tells(self) -> bool:
        return not (
            self.low <= 0 <= self.high or -NEGLIGIBLE <= self.low <= self.high <= NEGLIGIBLE
        )

    def __str__(self) -> str:
        low, median, high = (f"{value / 1000:+.2f}" for value in (self.low, self.median, self.high))
        return f"{self.kind}: {median} µs ({low} to {high})"


def difference(kind: str, values: list[int]) -> Difference:
    """The median of the values, and the order statistics around it."""
    ordered, half = sorted(values), len(values) / 2
    low = max(0, int(half - Z * len(values) ** 0.5 / 2))
    return Difference(kind, ordered[low], ordered[len(values) // 2], ordered[-1 - low])


def compare(
    groups: dict[str, dict[str, Refusal]], rounds: int, rng: random.Random
) -> list[Difference]:
    """Take the times of all refusals in each round; compare those of a group with its first."""
    refusals = {(group, kind): take for group in groups for kind, take in groups[group].items()}
    for take in refusals.values():  # what is done only once
        take()
    times: dict[tuple[str, str], list[int]] = {key: [] for key in refusals}
    for _ in range(rounds):
        for key in rng.sample(list(refusals), len(refusals)):
            times[key].append(refusals[key]())
    found = []
    for group, kinds in groups.items():
        first, *others = (times[group, kind] for kind in kinds)
        for kind, other in zip(list(kinds)[1:], others, strict=True):
            pairs = [value - base for value, base in zip(other, first, strict=True)]
            found.append(difference(f"{group}, {kind}", pairs))
    for each in found:
        print(f"  {each}{'  TOLD APART' if each.tells else ''}", file=sys.stderr, flush=True)
    return found


def basic(user: str, secret: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}"}


def requests(secret: str) -> dict[str, dict[str, Asked]]:
    """Groups of requests to refuse, by what is wrong with them.

    Kazoo drops the colon between user and secret when it reads, so that the name of a reader may be
    the beginning of what is sent in its place.
    """
    size, target = len(secret), "/kzr/call_recording_X.mp3"
    wrong = "x" * size
    guesses = {
        WRONG: wrong,
        "first byte right": secret[0] + wrong[1:],
        NEAR: secret[:-1] + "x",
        "a byte too long": wrong + "x",
    }
    users = [(kind, USER, guess) for kind, guess in guesses.items()]
    users.append((UNKNOWN, NOBODY, wrong))
    return {
        "writer": {kind: ("PUT", target, basic(*pair)) for kind, *pair in users},
        "token": {kind: ("PUT", f"{target}?token={guess}", {}) for kind, guess in guesses.items()},
        "reader": {kind: ("GET", target, basic(*pair)) for kind, *pair in users},
        "reader without the colon": {
            kind: ("GET", target, basic("".join(pair), "")) for kind, *pair in users
        },
    }


def refuse(access: Access, request: Request) -> int:
    """Ask `access` itself, with a request that is parsed already."""
    check = access.check_reader if request.method == "GET" else access.check_writer
    began = time.perf_counter_ns()
    try:
        check(request)
    except Unauthorized:
        return time.perf_counter_ns() - began
    raise SystemExit(f"not refused: {request.method} {request.path}")


def in_process(
    access: Access, groups: dict[str, dict[str, Asked]]
) -> dict[str, dict[str, Refusal]]:
    def refusal(method: str, target: str, headers: dict[str, str]) -> Refusal:
        builder = EnvironBuilder(target, method=method, headers=headers)
        return partial(refuse, access, Request(builder.get_environ()))

    return {
        group: {kind: refusal(*asked) for kind, asked in kinds.items()}
        for group, kinds in groups.items()
    }


def hashed(kind: type[Access]) -> dict[str, dict[str, Refusal]]:
    """Users with hashes, which take long to check: alone, and beside one whose secret is plain."""
    secret = "s" * 40
    only = {USER: generate_password_hash(secret, "pbkdf2:sha256:1000")}
    groups: dict[str, dict[str, Refusal]] = {}
    for name, users in {"hashed": only, "hashed beside plain": {"ann": secret} | only}.items():
        asked = {
            f"{name} {group}": {kind: kinds[kind] for kind in (WRONG, UNKNOWN)}
            for group, kinds in requests(secret).items()
            if group != "token"
        }
        groups |= in_process(kind(users, (), (), users), asked)
    return groups


def refuse_over_http(
    connection: HTTPConnection, method: str, target: str, headers: dict[str, str]
) -> int:
    began = time.perf_counter_ns()
    connection.request(method, target, b"audio" if method == "PUT" else None, headers)
    answer = connection.getresponse()
    answer.read()
    took = time.perf_counter_ns() - began
    if answer.status != 401:
        raise SystemExit(f"not refused: {method} {target[:60]}: {answer.status}")
    return took


@contextmanager
def over_http(project: Path) -> Iterator[dict[str, dict[str, Refusal]]]:
    """Start the receiver of a project; refusals go over one connection that is kept."""
    secret = "s" * OVER_HTTP
    original, receivers.PROJECT = receivers.PROJECT, project
    with tempfile.TemporaryDirectory(prefix="timing-") as folder:
        receiver = Receiver(
            Path(folder),
            writers=f"{USER}:{secret}",
            write_tokens=secret,
            readers=f"{USER}:{secret}",
        )
        try:
            with closing(HTTPConnection("127.0.0.1", receiver.port, timeout=30)) as connection:
                yield {
                    group: {
                        kind: partial(refuse_over_http, connection, *asked)
                        for kind, asked in kinds.items()
                    }
                    for group, kinds in requests(secret).items()
                }
        finally:
            receivers.PROJECT = original
            receiver.stop()


def report(
    tried: str, rounds: int, found: list[Difference], control: list[Difference], leaks: list[str]
) -> bool:
    """Print a row: what can be told apart, the largest difference, and what the control showed."""
    told = [each for each in found if each.tells]
    largest = max(told or found, key=lambda each: abs(each.median))
    figures = f"{rounds:,} rounds, {len(told)} of {len(found)} differences can be told apart, "
    figures += f"largest {largest}; a comparison that leaks shows "
    blind = False
    for kind in leaks:
        seen = [each for each in control if each.kind.endswith(kind) and each.tells]
        blind |= not seen
        figures += str(max(seen, key=lambda each: abs(each.median))) if seen else f"NO {kind}"
        figures += ", " if kind != leaks[-1] else ""
    return tell(tried, figures, not told and not blind)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=1000,
        metavar="N",
        help="over HTTP and with hashes; in the process are four times as many (1000)",
    )
    parser.add_argument("--seed", default=str(time.time_ns()), help="of the order of refusals")
    given = parser.parse_args()
    if given.rounds < 100:
        parser.error("--rounds: fewer than 100 tell nothing")
    print(f"--seed {given.seed}", file=sys.stderr, flush=True)
    rng, rounds = random.Random(given.seed), given.rounds

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    users = {USER: "s" * IN_PROCESS}
    groups = requests(users[USER])
    access = {kind: kind(users, (), list(users.values()), users) for kind in (Leaky, Access)}
    say("In the process, leaking:")
    control = compare(in_process(access[Leaky], {"writer": groups["writer"]}), rounds * 4, rng)
    say("In the process:")
    found = compare(in_process(access[Access], groups), rounds * 4, rng)
    say("Hashed secrets, leaking:")
    control_hashed = compare(hashed(Leaky), rounds // 4, rng)
    say("Hashed secrets:")
    found_hashed = compare(hashed(Forgetful), rounds, rng)
    with (
        tempfile.TemporaryDirectory(prefix="proof-") as folder,
        over_http(copy_project(Path(folder), BYTE_BY_BYTE)) as refusals,
    ):
        say("Over HTTP, leaking:")
        control_http = compare({"writer": refusals["writer"]}, rounds // 2, rng)
    with over_http(receivers.PROJECT) as refusals:
        say("Over HTTP:")
        found_http = compare(refusals, rounds, rng)

    tried = "time of a refusal, "
    passed = [
        report(tried + "secrets of 64 KiB", rounds * 4, found, control, [NEAR]),
        report(tried + "hashed secrets", rounds, found_hashed, control_hashed, [UNKNOWN]),
        report(tried + "3000 bytes over HTTP", rounds, found_http, control_http, [NEAR]),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
