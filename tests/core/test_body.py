"""Bodies sent to gunicorn over sockets: whole ones are stored, others leave nothing."""

import contextlib
import io
import socket
import struct
import time

import pytest

from receiver.core.body import DRAIN_BYTES, Body
from receiver.errors import IncompleteBody, LengthRequired
from support.clients import read_answer
from support.receivers import Receiver
from support.waiting import wait_for

HEAD = b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LARGE = bytes(range(256)) * 4096 * 5 + b"end"  # 5 MiB and 3 bytes


def length(size: int | bytes) -> bytes:
    return HEAD + b"Content-Length: %s\r\n\r\n" % str(size).encode()


def reset(sock: socket.socket) -> None:
    """Cut a connection with RST in place of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class TestWhole:
    @pytest.mark.parametrize("body", [b"", b"0", b"audio", LARGE], ids=["empty", "0", "5", "5M"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_body_is_stored_byte_for_byte(self, worker: Receiver, body, chunked):
        answer = worker.put("/kzr/call_recording_X.mp3", body, chunked=chunked)
        assert answer.status == 201, answer.text
        assert worker.stored() == {"X.mp3": body}

    def test_many_small_chunks_with_extensions_and_trailers(self, worker: Receiver):
        chunks = b"".join(b"1;name=value\r\n%c\r\n" % byte for byte in LARGE[:3000])
        answer = worker.raw(CHUNKED + chunks + b"0\r\nX-Trailer: y\r\n\r\n")
        assert answer.status == 201
        assert worker.stored() == {"X.mp3": LARGE[:3000]}

    def test_body_that_arrives_byte_by_byte(self, worker: Receiver):
        with worker.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in length(20) + b"x" * 20:
                sock.sendall(bytes([byte]))
            assert read_answer(sock).status == 201
        assert worker.stored() == {"X.mp3": b"x" * 20}

    def test_100_continue_is_sent_before_the_body(self, worker: Receiver):
        with worker.connect() as sock:
            sock.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"audio")
            assert read_answer(sock).status == 201

    def test_chunk_size_setting_changes_nothing_but_speed(self, start):
        receiver = start(chunk_size=7)
        assert receiver.put("/kzr/call_recording_X.mp3", LARGE).status == 201
        assert receiver.stored() == {"X.mp3": LARGE}

    def test_body_of_the_largest_size_is_accepted(self, start):
        receiver = start(max_bytes=len(LARGE))
        for name in "AB":
            target = f"/kzr/call_recording_{name}.mp3"
            assert receiver.put(target, LARGE, chunked=name == "B").status == 201


class TestIncomplete:
    @pytest.mark.parametrize("sent", [0, 1, 1000, len(LARGE) - 1])
    def test_body_shorter_than_its_length_is_refused(self, worker: Receiver, sent):
        answer = worker.raw(length(len(LARGE)) + LARGE[:sent], end=True)
        assert answer.status == 400
        assert answer.line == f"the body ended after {sent} of {len(LARGE)} bytes"
        assert worker.stored() == {}

    @pytest.mark.parametrize(
        "chunks",
        [
            b"",
            b"5\r\nau",
            b"5\r\naudio",
            b"5\r\naudio\r\n",
            b"5\r\naudio\r\n0\r\n",
            b"5\r\naudioXX",
            b"5\r\naudio\r\nx\r\n",
            b"-5\r\naudio\r\n0\r\n\r\n",
            b"5;\x01\r\naudio\r\n0\r\n\r\n",
        ],
    )
    def test_broken_chunks_are_refused(self, worker: Receiver, chunks):
        answer = worker.raw(CHUNKED + chunks, end=True)
        assert answer.status == 400
        assert "the body broke off after" in answer.line
        assert worker.stored() == {}

    @pytest.mark.parametrize("cut", [socket.socket.close, reset], ids=["FIN", "RST"])
    @pytest.mark.parametrize("start", [length(len(LARGE)), CHUNKED + b"500003\r\n"])
    def test_connection_that_is_cut_leaves_nothing(self, worker: Receiver, cut, start):
        before = worker.log.count(" outcome=400 ")
        sock = worker.connect()
        sock.sendall(start + LARGE[:2_000_000])
        cut(sock)
        wait_for(lambda: worker.log.count(" outcome=400 ") > before)
        assert worker.stored() == {}

    def test_stalled_body_is_answered_408(self, worker: Receiver):
        answer = worker.raw(length(100) + b"audio")
        assert answer.status == 408
        assert answer.line == "the body stalled or came too slowly"
        assert worker.stored() == {}

    def test_drip_fed_body_is_answered_408(self, worker: Receiver):
        with worker.connect() as sock:
            sock.sendall(length(1000))
            sock.settimeout(0.2)
            began = time.monotonic()
            answer = None
            while answer is None and time.monotonic() - began < 20:
                with contextlib.suppress(OSError):
                    sock.sendall(b"x")
                    sock.recv(1, socket.MSG_PEEK)
                    answer = read_answer(sock)
        assert answer and answer.status == 408
        assert answer.line == "the body stalled or came too slowly"
        assert worker.stored() == {}

    def test_stalled_header_is_cut_off(self, start):
        receiver = start("--threads=1")
        with receiver.connect() as sock:
            sock.sendall(b"PUT /kzr/call_recording_X.mp3 HT")
            sock.settimeout(60)
            assert sock.recv(100) == b""

    def test_what_follows_a_body_is_no_part_of_it(self, worker: Receiver):
        with worker.connect() as sock:
            sock.sendall(length(5) + b"audioSURPLUS")
            assert read_answer(sock).status == 201
        assert worker.stored() == {"X.mp3": b"audio"}


class TestRefused:
    @pytest.mark.parametrize(
        ("header", "status"),
        [
            (b"", 411),
            (b"Content-Length: 5\r\nContent-Encoding: gzip\r\n", 415),
            (b"Content-Length: 5\r\nContent-Range: bytes 0-4/5\r\n", 400),
            (b"Content-Length: 31457281\r\n", 413),
        ],
    )
    def test_body_that_is_no_recording_as_it_is(self, worker: Receiver, header, status):
        answer = worker.raw(HEAD + header + b"\r\naudio", end=True)
        assert answer.status == status
        assert answer.line
        assert worker.stored() == {}

    @pytest.mark.parametrize(
        "header",
        [
            b"Content-Length: -5\r\n",
            b"Content-Length: 5,5\r\n",
            b"Content-Length: 5\r\nContent-Length: 6\r\n",
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n",
            b"Transfer-Encoding: identity\r\n",
            b"Transfer-Encoding: chunked, chunked\r\n",
        ],
    )
    def test_ambiguous_framing_stores_nothing(self, worker: Receiver, header):
        answer = worker.raw(HEAD + header + b"\r\n5\r\naudio\r\n0\r\n\r\n", end=True)
        assert 400 <= answer.status < 500 or answer.status == 501
        assert worker.stored() == {}

    def test_chunked_body_over_the_limit(self, worker: Receiver):
        answer = worker.put("/kzr/call_recording_X.mp3", bytes(31_500_000), chunked=True)
        assert answer.status == 413
        assert answer.line == ("the recording is larger than KZR_MAX_BYTES (31457280 bytes)")
        assert worker.stored() == {}

    def test_sender_that_reads_last_still_sees_the_status(self, worker: Receiver):
        # As Erlang's httpc: it writes the whole body first, whatever comes back.
        for _ in range(5):
            answer = worker.raw(length(40_000_000) + bytes(40_000_000))
            assert answer.status == 413


class TestOtherServers:
    """What WSGI servers hand over that gunicorn does not."""

    def body(self, data: bytes, **environ: object) -> Body:
        body = Body({"wsgi.input": io.BytesIO(data), **environ})
        body.require(1000)
        return body

    def test_stream_is_not_read_past_the_content_length(self):
        with self.body(b"audioNEXT", CONTENT_LENGTH="5").stream() as stream:
            assert stream.read() == b"audio"

    def test_stream_that_only_claims_to_be_whole_is_refused(self):
        environ = {"CONTENT_LENGTH": "100", "wsgi.input_terminated": True}
        with pytest.raises(IncompleteBody), self.body(b"audio", **environ).stream() as stream:
            stream.read()

    def test_chunked_body_needs_a_server_that_ends_it(self):
        with pytest.raises(LengthRequired):
            self.body(b"audio", HTTP_TRANSFER_ENCODING="chunked")

    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"CONTENT_LENGTH": "x"},
            {"HTTP_TRANSFER_ENCODING": "chunked"},
            {"wsgi.input_terminated": True},
        ],
    )
    def test_nothing_is_awaited_of_a_body_without_an_end(self, environ):
        """Werkzeug's own server, for one, would wait for it as long as the client stays."""
        reads = []

        class Silent(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                reads.append(size)
                return b""

        Body({"wsgi.input": Silent(), **environ}).drain()
        assert not reads

    def test_nothing_is_read_after_a_failed_read(self):
        class Broken(io.RawIOBase):
            reads = 0

            def read(self, size: int = -1) -> bytes:
                self.reads += 1
                raise ValueError("not an OSError")

        body = self.body(b"", CONTENT_LENGTH="5")
        body._input = broken = Broken()
        with pytest.raises(IncompleteBody):
            body.read(5)
        body.drain()
        assert broken.reads == 1

    def test_drain_of_an_endless_body_ends(self):
        class Endless(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                assert body.received < 2 * DRAIN_BYTES
                return bytes(size)

        environ = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
        body = Body({"wsgi.input": Endless(), **environ})
        body.drain()
        assert DRAIN_BYTES <= body.received < DRAIN_BYTES + 100_000
