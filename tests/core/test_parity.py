"""The PHP receiver under Apache and this one, alone and under each front, get the same requests.

First what both do alike, then each difference that the table in receiver/README.md tells of.
"""

import os
import shutil
import socket

import pytest

from support.clients import Storing
from support.fronts import FRONTS, stored
from support.notes import MARKER
from support.php import ModPhp

KZR = "/kzr/call_recording_"


@pytest.fixture(scope="session")
def started_php():
    server = ModPhp()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["gunicorn", *FRONTS])
def started(request):
    if request.param == "gunicorn":
        yield request.getfixturevalue("shared")
        return
    front = FRONTS[request.param]()
    yield front
    front.stop()


def emptied(server: Storing) -> Storing:
    for path in server.storage.iterdir():
        if path.name not in (".handover", MARKER):  # nginx makes that folder at its start only
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return server


@pytest.fixture
def php(started_php) -> Storing:
    return emptied(started_php)


@pytest.fixture
def ours(started) -> Storing:
    return emptied(started)


def both(php: Storing, ours: Storing, target: str, body: bytes = b"audio", **kwargs) -> None:
    """Send the same request to both, and see both take it."""
    assert php.put(target, body, **kwargs).status == 200
    assert ours.put(target, body, **kwargs).status in (200, 201)


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("abc123.mp3", "abc123.mp3"),
        ("abc123.wav", "abc123.wav"),
        ("MTk4Yjc5@10.0.0.1.mp3", "MTk4Yjc5@10.0.0.1.mp3"),
        ("MTk4Yjc5%4010.0.0.1.mp3", "MTk4Yjc5@10.0.0.1.mp3"),
        ("7e1d7ab0-7f2c-123a-b0a5-0242ac110002.mp3", "7e1d7ab0-7f2c-123a-b0a5-0242ac110002.mp3"),
        ("a84b4c_76@pc33.example.com.wav", "a84b4c_76@pc33.example.com.wav"),
        ("-_-.mp3", "-_-.mp3"),
        ("call_recording_abc.mp3", "call_recording_abc.mp3"),
        ("abc.MP3", "abc.MP3"),
        ("x" * 236 + ".mp3", "x" * 236 + ".mp3"),
        ("abc.mp3?call_id=abc&from=%2B15550100&to=100%40sip", "abc.mp3"),
    ],
)
def test_same_name(php, ours, sent, name):
    both(php, ours, KZR + sent)
    assert stored(ours) == php.stored() == {name: b"audio"}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 100_000, 3_000_000])
def test_same_bytes(php, ours, size, chunked):
    body = os.urandom(size)[:-1] + b"x" if size else b""  # "0" at the end is a difference: below
    both(php, ours, KZR + "X.mp3", body, chunked=chunked)
    assert stored(ours) == php.stored() == {"X.mp3": body}


def test_same_after_a_retry(php, ours):
    both(php, ours, KZR + "X.mp3")
    both(php, ours, KZR + "X.mp3")
    assert stored(ours) == php.stored() == {"X.mp3": b"audio"}


def cut_upload(server: Storing, body: bytes) -> bytes:
    """Announce a body twice as long as the one that is sent; return the answer, if any."""
    with server.connect() as sock:
        head = f"PUT {KZR}X.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        sock.shutdown(socket.SHUT_WR)
        return sock.recv(100)


def test_cut_upload_leaves_a_file_in_php_only(php, ours):
    body = os.urandom(100_000)
    assert cut_upload(php, body).startswith(b"HTTP/1.1 200")
    [(name, kept)] = php.stored().items()
    assert name == "X.mp3" and 0 < len(kept) <= len(body) and body.startswith(kept)

    assert not cut_upload(ours, body).startswith(b"HTTP/1.1 2")
    assert stored(ours) == {}


@pytest.mark.parametrize("before", [0, 1024, 100 * 1024])
def test_zero_in_a_last_chunk_of_its_own_is_lost_in_php_only(php, ours, before):
    body = b"x" * before + b"0"
    both(php, ours, KZR + "X.mp3", body)
    assert php.stored() == {"X.mp3": body[:-1]}
    assert stored(ours) == {"X.mp3": body}


def test_second_recording_of_a_call_overwrites_the_first_in_php_only(php, ours):
    both(php, ours, KZR + "X.mp3", b"first")
    both(php, ours, KZR + "X.mp3", b"second")
    assert php.stored() == {"X.mp3": b"second"}
    assert stored(ours) == {"X.mp3": b"second", "X~1.mp3": b"first"}


def test_full_disk_is_a_200_in_php_only(php, start):
    (php.storage / "X.mp3").symlink_to("/dev/full")
    assert php.put(KZR + "X.mp3").status == 200

    full = start(min_free="1000T")
    assert full.put(KZR + "X.mp3").status == 507
    assert full.stored() == {}


def test_query_renames_in_php_only(php, ours):
    both(php, ours, KZR + "X.mp3?recording=Y.mp3")
    assert php.stored() == {"Y.mp3": b"audio"}
    assert stored(ours) == {"X.mp3": b"audio"}


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (KZR + "../outside/X.mp3", "%2E.%2Foutside%2FX.mp3"),
        (KZR + "A.mp3?recording=../outside/X.mp3", "A.mp3"),
    ],
)
def test_dots_lead_out_of_the_folder_in_php_only(php, ours, target, name):
    outside = php.folder / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    both(php, ours, target)
    assert (outside / "X.mp3").read_bytes() == b"audio"
    shutil.rmtree(outside)
    assert php.stored() == {}
    assert stored(ours) == {name: b"audio"}


@pytest.mark.parametrize(("slash", "status"), [("%2F", 404), ("/", 500)])
def test_call_id_with_a_slash_is_stored_by_this_one_only(php, ours, slash, status):
    # Apache answers %2F with a 404. Behind a raw slash is no folder: PHP 8 answers 500.
    target = f"{KZR}a{slash}b.mp3"
    assert php.put(target).status == status
    assert php.stored() == {}
    assert ours.put(target).status == 201
    assert stored(ours) == {"a%2Fb.mp3": b"audio"}


def test_doubled_dot_stays_in_php_only(php, ours):
    both(php, ours, KZR + "X..mp3")
    assert php.stored() == {"X..mp3": b"audio"}
    assert stored(ours) == {"X.mp3": b"audio"}


def test_recording_without_a_format_is_refused_by_php_only(php, ours):
    # The rewrite rule wants something behind the dot: the request never reaches the script.
    assert php.put(KZR + "X.").status == 405
    assert ours.put(KZR + "X.").status == 201
    assert stored(ours) == {"X~": b"audio"}


@pytest.mark.parametrize(
    ("sent", "in_php", "here"),
    [
        ("a~b.mp3", "a~b.mp3", "a%7Eb.mp3"),
        ("a%3Bb.mp3", "a;b.mp3", "a%3Bb.mp3"),
        ("J%C3%B6rg.mp3", "Jörg.mp3", "J%C3%B6rg.mp3"),
        (".X.mp3", ".X.mp3", "%2EX.mp3"),
        # The rewrite rule makes a query of the decoded name, and PHP decodes it once more.
        ("a+b.mp3", "a b.mp3", "a+b.mp3"),
        ("a%2Bb.mp3", "a b.mp3", "a+b.mp3"),
        ("a%2520b.mp3", "a b.mp3", "a%2520b.mp3"),
        ("a%26b.mp3", "a", "a%26b.mp3"),
    ],
)
def test_unusual_characters_differ(php, ours, sent, in_php, here):
    both(php, ours, KZR + sent)
    assert php.stored() == {in_php: b"audio"}
    assert stored(ours) == {here: b"audio"}


def test_name_with_another_ending_gets_a_tilde_here_only(php, ours):
    """So that no list that is stored beside another recording is ever taken for it."""
    both(php, ours, KZR + "abc.unheard")
    assert php.stored() == {"abc.unheard": b"audio"}
    assert stored(ours) == {"abc.unheard~": b"audio"}


def test_call_id_with_a_space_is_refused_by_php_only(php, ours):
    # Apache answers 403 to a decoded space in what the rewrite rule makes.
    assert php.put(KZR + "a%20b.mp3").status == 403
    assert ours.put(KZR + "a%20b.mp3").status == 201
    assert stored(ours) == {"a%20b.mp3": b"audio"}
