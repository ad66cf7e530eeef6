"""The receiver on a host of which only .htaccess can be edited."""

import os
import socket

import pytest

from support.fronts import Htaccess


@pytest.fixture(scope="module")
def host():
    host = Htaccess()
    yield host
    host.stop()


class TestHtaccess:
    """Where nothing but .htaccess can be edited, each upload starts the receiver anew."""

    def test_recordings_are_stored(self, host):
        for body in (b"", b"audio", os.urandom(3_000_000)):
            answer = host.put("/kzr/ACCOUNT/call_recording_abc%4010.0.0.1..mp3?from=x", body)
            assert answer.status in (200, 201), answer.text + host.log
            assert host.stored()["ACCOUNT/abc@10.0.0.1.mp3"] == body

    def test_cut_upload_leaves_nothing(self, host):
        with host.connect() as sock:
            head = b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(head + b"Content-Length: 9\r\n\r\naudio")
            sock.shutdown(socket.SHUT_WR)
            assert not sock.recv(100).startswith(b"HTTP/1.1 2")
        assert "X.mp3" not in host.stored()

    def test_raw_utf8_is_taken(self, host):
        head = "PUT /kzr/call_recording_Jörg李.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
        assert host.raw(head.encode() + b"audio").status == 201
        assert host.stored()["J%C3%B6rg%E6%9D%8E.mp3"] == b"audio"

    def test_chunked_upload_is_refused(self, host):
        """CGI has no way to tell that one was cut off."""
        assert host.put("/kzr/call_recording_X.mp3", b"audio", chunked=True).status == 411

    def test_encoded_slash_is_refused_by_the_host(self, host):
        assert host.put("/kzr/call_recording_a%2Fb.mp3").status == 404
