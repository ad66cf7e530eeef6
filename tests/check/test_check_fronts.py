"""The check of a deployed receiver, through the servers in front of it: as shipped, and broken."""

import os
import re

import pytest

from support.checking import Checked, url_of
from support.fronts import FRONTS, ApacheProxy, ModWsgi, Nginx


def check(front, tmp_path, credentials: str = "") -> Checked:
    try:
        return Checked(url_of(front, credentials), storage=tmp_path / "unused")
    finally:
        front.stop()


def replaced(old: str, new: str):
    """An edit of the shipped file that has to change something."""

    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


@pytest.mark.parametrize("name", list(FRONTS))
def test_passes_with_the_shipped_file(tmp_path, name):
    front = FRONTS[name](writers="kazoo:secret", readers="kazoo:secret")
    checked = check(front, tmp_path, "kazoo:secret@")
    assert (checked.status, checked.failed, checked.notes) == (0, [], [])
    assert "reading back" in checked.ok


def failures(checked: Checked) -> dict[str, str]:
    assert checked.status == 1
    return dict(line.split(": ", 1) for line in checked.failed)


class TestNginx:
    def test_body_limit_of_one_megabyte(self, tmp_path):
        edit = replaced("client_max_body_size 2g", "client_max_body_size 1m")
        failed = failures(check(Nginx(edit=edit), tmp_path))
        assert list(failed) == ["a recording of 25 MB"]
        assert "413" in failed["a recording of 25 MB"]
        assert "client_max_body_size" in failed["a recording of 25 MB"]

    def test_proxy_pass_with_a_uri(self, tmp_path):
        edit = replaced("proxy_pass http://recordings;", "proxy_pass http://recordings/;")
        failed = failures(check(Nginx(edit=edit), tmp_path))
        assert any("proxy_pass without a path" in reason for reason in failed.values())

    def test_long_request_line(self, tmp_path):
        edit = replaced("large_client_header_buffers 4 16k", "large_client_header_buffers 4 4k")
        failed = failures(check(Nginx(edit=edit), tmp_path))
        assert list(failed) == ["a request line of 16000 bytes"]
        assert "large_client_header_buffers" in failed["a request line of 16000 bytes"]

    def test_wrong_handover_folder(self, tmp_path):
        other = tmp_path / "other"
        failed = failures(check(Nginx(handover=True, handover_dir=other), tmp_path))
        (reason,) = failed.values()
        assert (
            "500 from the receiver: what nginx handed over is no file in KZR_HANDOVER_DIR" in reason
        )
        assert "client_body_temp_path" in reason

    def test_handover_that_only_nginx_knows_of(self, tmp_path):
        failed = failures(check(Nginx(handover=True, handover_dir=""), tmp_path))
        assert "411 from the receiver: no length" in failed["a small recording"]
        assert "set KZR_HANDOVER_DIR" in failed["a small recording"]

    def test_receiver_that_is_down(self, tmp_path):
        front = Nginx()
        front.receiver.stop()
        failed = failures(check(front, tmp_path))
        assert "502" in failed["a small recording"]
        assert "is gunicorn running" in failed["a small recording"]


class TestApache:
    @pytest.mark.parametrize("front", [ApacheProxy, ModWsgi])
    def test_encoded_slashes_off(self, tmp_path, front):
        edit = replaced("AllowEncodedSlashes NoDecode", "AllowEncodedSlashes Off")
        failed = failures(check(front(edit=edit), tmp_path))
        reason = failed["a Call-ID with @ and / (%2F)"]
        assert "404" in reason and "AllowEncodedSlashes NoDecode" in reason

    def test_proxy_pass_without_nocanon(self, tmp_path):
        failed = failures(check(ApacheProxy(edit=replaced(" nocanon", "")), tmp_path))
        assert any("nocanon at the end of ProxyPass" in reason for reason in failed.values())

    def test_body_limit_of_one_megabyte(self, tmp_path):
        edit = replaced("LimitRequestBody 2147483648", "LimitRequestBody 1000000")
        failed = failures(check(ModWsgi(edit=edit), tmp_path))
        assert list(failed) == ["a recording of 25 MB"]
        assert "LimitRequestBody" in failed["a recording of 25 MB"]

    def test_chunked_bodies_off(self, tmp_path):
        edit = replaced("WSGIChunkedRequest On", "WSGIChunkedRequest Off")
        failed = failures(check(ModWsgi(edit=edit), tmp_path))
        assert "WSGIChunkedRequest On" in failed["a chunked body"]

    def test_credentials_that_do_not_arrive(self, tmp_path):
        edit = replaced("WSGIPassAuthorization On", "WSGIPassAuthorization Off")
        failed = failures(check(ModWsgi(edit=edit, writers="a:b"), tmp_path, "a:b@"))
        assert "WSGIPassAuthorization On" in failed["a small recording"]


def test_storage_that_became_read_only(tmp_path):
    """mod_wsgi, whose user is not root, to whom nothing is read-only."""
    # One process, which runs already: another would not start, and log why.
    front = ModWsgi(edit=replaced("processes=2", "processes=1"))
    assert front.put("/kzr/call_recording_X.mp3").status == 201
    for path in (front.storage, *front.storage.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o555)
    failed = failures(check(front, tmp_path))
    assert re.search("50[0-9] from the receiver: .*Permission denied", failed["a small recording"])
