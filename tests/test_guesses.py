"""Wrong passwords: who guesses is slowed down, who is right is not, and the cost is bounded."""

import threading
from collections.abc import Callable

import pytest
from flask import Flask
from werkzeug.security import generate_password_hash

from receiver import create_app
from receiver.errors import TooManyGuesses
from receiver.guesses import FREE, MOST_REMEMBERED, PAUSE, Guesses
from support.receivers import Receiver
from test_access import TARGET, basic

KAZOO, OTHER = "192.0.2.1", "192.0.2.2"
SECRET = "right"
COST = 0.05  # seconds of a check


class Guessed:
    """Guesses with a clock of their own, which only checks and pauses let go on."""

    def __init__(self, trusted: str = "-") -> None:
        self.now = 1000.0
        self.checked: list[str] = []
        self.guesses = Guesses(lambda address: address == trusted, lambda: self.now)

    def check(self, secret: str) -> bool:
        self.checked.append(secret)
        self.now += COST
        return secret == SECRET

    def ask(self, secret: str, address: str | None = KAZOO, user: str = "kazoo") -> bool | None:
        """Whether it is right, None where it is refused unchecked."""
        try:
            return self.guesses.is_right(
                ("write", user, secret), address, lambda: self.check(secret)
            )
        except TooManyGuesses:
            return None

    def wear_out(self, address: str = KAZOO, user: str = "kazoo") -> None:
        """Guess until no more is checked, slowly enough to be the only one who is refused."""
        for number in range(1000):
            self.now += 0.3
            if self.ask(f"{address} {user} {number}", address, user) is None:
                return
        raise AssertionError("every guess is checked")


@pytest.fixture
def guessed() -> Guessed:
    return Guessed()


def test_right_credentials_are_checked_once_and_pass_whatever_else_goes_on(guessed: Guessed):
    assert guessed.ask(SECRET)
    guessed.wear_out()
    assert guessed.ask(SECRET) and guessed.ask(SECRET, OTHER)
    assert guessed.checked.count(SECRET) == 1


def test_the_same_wrong_credentials_are_checked_once_and_slow_nobody(guessed: Guessed):
    """As of one mistyped callflow among hundreds that are right."""
    assert [guessed.ask("wrong") for _ in range(1000)] == [False] * 1000
    assert guessed.checked == ["wrong"]
    guessed.now += COST * 10
    assert guessed.ask(SECRET)


def test_who_guesses_for_a_user_has_to_wait_and_others_do_not(guessed: Guessed):
    guessed.wear_out()
    assert guessed.ask(SECRET) is None
    assert guessed.ask(SECRET, OTHER)
    assert [guessed.ask(SECRET, user=f"user{n}") for n in range(20)].count(True) > 10


def test_who_waited_is_heard_again(guessed: Guessed):
    guessed.wear_out()
    guessed.now += PAUSE * 20
    assert guessed.ask(SECRET)


def test_networks_of_ipv6_are_one_client(guessed: Guessed):
    for number in range(FREE * 2):
        guessed.now += 0.3
        guessed.ask(f"wrong{number}", f"2001:db8::{number:x}")
    assert guessed.ask(SECRET, "2001:db8::ffff") is None
    assert guessed.ask(SECRET, "2001:db8:0:1::1")


def test_guesses_from_everywhere_take_a_part_of_the_time(guessed: Guessed):
    began, asked = guessed.now, 0
    while guessed.now < began + 60:
        guessed.ask(f"wrong{asked}", f"10.0.{asked % 250}.{asked // 250 % 250}", f"user{asked}")
        guessed.now += 0.01
        asked += 1
    assert len(guessed.checked) * COST < 60 / 4 + 1
    guessed.now += COST * 4
    assert guessed.ask(SECRET)


def test_addresses_that_may_write_anyway_are_never_slowed_down():
    guessed = Guessed(trusted=KAZOO)
    answers = [guessed.ask(f"wrong{number}") for number in range(200)]
    assert answers == [False] * 200
    guessed.wear_out(OTHER)
    assert guessed.ask(SECRET)


def test_memory_is_bounded(guessed: Guessed):
    for number in range(MOST_REMEMBERED + 500):
        guessed.now += PAUSE
        guessed.ask(f"wrong{number}", f"10.0.{number // 250}.{number % 250}")
    assert len(guessed.guesses._wrong) == len(guessed.guesses._pauses) == MOST_REMEMBERED


def test_many_that_come_at_once_with_the_same_wait_for_one_check():
    """As all of Kazoo's uploads after a restart."""
    checks, answers, may_end = [], [], threading.Event()
    guesses = Guesses()

    def check() -> bool:
        checks.append(1)
        return may_end.wait(30)

    def ask() -> None:
        answers.append(guesses.is_right(("write", "kazoo", SECRET), KAZOO, check))

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    may_end.set()
    for thread in threads:
        thread.join(30)
    assert (answers, checks) == ([True] * 50, [1])


def test_checks_run_one_at_a_time_and_few_wait():
    """Each takes tens of megabytes and a core: 16 threads of them took half a gigabyte."""
    running, most, refused, may_end = [], [], [], threading.Event()
    guesses = Guesses()

    def check() -> bool:
        running.append(1)
        most.append(len(running))
        may_end.wait(30)
        running.pop()
        return False

    def ask(number: int) -> None:
        try:
            guesses.is_right(("write", "kazoo", str(number)), f"10.0.0.{number}", check)
        except TooManyGuesses:
            refused.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads[20:]:
        thread.join(0.01)
    may_end.set()
    for thread in threads:
        thread.join(30)
    assert max(most) == 1
    assert len(refused) >= 32


def test_a_check_that_fails_is_no_answer_to_others(guessed: Guessed):
    def broken() -> bool:
        raise OSError("no memory")

    with pytest.raises(OSError):
        guessed.guesses.is_right(("write", "kazoo", SECRET), KAZOO, broken)
    assert guessed.ask(SECRET)


def client(app: Flask, address: str) -> Callable[[str], int]:
    def put(credentials: str) -> int:
        environ = {"REMOTE_ADDR": "127.0.0.1"}
        headers = basic(credentials) | {"X-Forwarded-For": address}
        test = app.test_client()
        return test.put(TARGET, data=b"x", environ_overrides=environ, headers=headers).status_code

    return put


def test_behind_a_proxy_the_clients_own_address_counts(tmp_path):
    hashed = generate_password_hash(SECRET, "pbkdf2:sha256:1000")
    app = create_app(
        {"STORAGE": str(tmp_path), "WRITERS": f"kazoo:{hashed}", "TRUSTED_PROXIES": "1"}
    )
    guesses = client(app, OTHER)
    answers = [guesses(f"kazoo:wrong{number}") for number in range(30)]
    assert set(answers) == {401, 429}
    assert client(app, KAZOO)(f"kazoo:{SECRET}") == 201
    assert guesses(f"kazoo:{SECRET}") == 200  # which passes from everywhere, once it was seen


def test_refusal_says_how_long_to_wait(tmp_path):
    hashed = generate_password_hash(SECRET, "pbkdf2:sha256:1000")
    server = Receiver(tmp_path, writers=f"kazoo:{hashed}")
    try:
        for number in range(FREE * 2):
            answer = server.put(TARGET, headers=basic(f"kazoo:wrong{number}"))
        assert answer.status == 429
        assert answer.line.startswith("too many wrong credentials came: try again in ")
        assert 1 <= int(answer.headers["Retry-After"]) <= PAUSE * FREE
    finally:
        server.stop()
