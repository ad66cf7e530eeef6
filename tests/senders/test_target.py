"""Names that a sender's path alone does not settle, through a running receiver that reads back."""

import base64

import pytest

from support.receivers import Receiver

READER = {"Authorization": "Basic " + base64.b64encode(b"kazoo:secret").decode()}


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    server = Receiver(tmp_path_factory.mktemp("names"), readers="kazoo:secret")
    yield server
    server.stop()


@pytest.fixture
def receiver(started: Receiver) -> Receiver:
    started.clear()
    return started


def get(receiver: Receiver, target: str) -> bytes | int:
    answer = receiver.request("GET", f"/kzr/{target}", headers=READER)
    return answer.body if answer.status == 200 else answer.status


class TestFolders:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("4f8c2d6ba1e04be39c1d7f60a2b3c4d5", "4f8c2d6ba1e04be39c1d7f60a2b3c4d5/U/a.mp3"),
            ("call_recording_2026.", "2026/11/call_recording_x.mp3"),
            ("A/D", "A/D/N"),
            ("X.mp3", "X.mp3/call_recording_y..mp3"),
            ("X.mp3?call_id=X", "X.mp3.json/y.mp3"),
            ("X?call_id=X", "X~.json/y.mp3"),
            ("X.WAV", "X.WAV/y.WAV"),
        ],
    )
    def test_recording_and_folder_of_one_name_are_both_stored(self, receiver, one, other):
        for first, second in ((one, other), (other, one)):
            receiver.clear()
            for target in (first, second):
                assert receiver.put(f"/kzr/{target}", target.encode()).status == 201
            assert get(receiver, first) == first.encode()
            assert get(receiver, second) == second.encode()

    @pytest.mark.parametrize(
        "path",
        ["A/D/N", "A/D/N.mp3", "A/D/N.WAV", "A/D/a..mp3", "A/D/x.mp3.json", "A/D/x.", "A/x.mp3/D/N"]
        + ["A/D/call_recording_x.mp3", "A/D/call_recording_x..mp3", "N.mp3", "A/a%2Fb~.mp3"],
    )
    def test_doubled_path_reads_what_was_sent_to_it_once(self, receiver, path):
        assert receiver.put(f"/kzr/{path}", b"audio").status == 201
        assert get(receiver, f"{path}/{path}") == b"audio"
        assert get(receiver, f"{path}/{path}?call_id=x") == b"audio"
        assert get(receiver, f"{path}/{path}/{path}") == 404

    @pytest.mark.parametrize("path", ["healthz/healthz", "browse/browse", "a/b/a/c"])
    def test_other_paths_are_not_halved(self, receiver, path):
        assert get(receiver, path) == 404
        assert receiver.request("GET", f"/{path}", headers=READER).status == 404

    @pytest.mark.parametrize(
        ("target", "old"),
        [
            ("call_recording_abc%4010.0.0.1.", "abc@10.0.0.1"),
            ("A/D/N", "A/D/N"),
            ("sip.example.au/x.mp3", "sip.example.au/x.mp3"),
        ],
    )
    def test_recording_of_an_earlier_release_is_read_and_superseded(self, receiver, target, old):
        path = receiver.storage / old
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")
        assert get(receiver, target) == b"old"
        assert get(receiver, f"{target}/{target}") == b"old"
        assert receiver.put(f"/kzr/{target}", b"old").status == 200
        assert receiver.put(f"/kzr/{target}", b"new").line.startswith(f"superseded: {old}, ")
        assert get(receiver, target) == b"new"
        assert sorted(receiver.stored().values()) == [b"new", b"old"]

    def test_what_stands_in_a_folders_place_is_told_with_the_remedy(self, receiver):
        (receiver.storage / "ACCOUNT").write_bytes(b"old")
        answer = receiver.put("/kzr/ACCOUNT/USER/call_recording_x.mp3")
        assert answer.status == 500
        assert answer.line == "could not store: No folder, rename it to ACCOUNT~: ACCOUNT"
        (receiver.storage / "ACCOUNT").rename(receiver.storage / "ACCOUNT~")
        assert receiver.put("/kzr/ACCOUNT/USER/call_recording_x.mp3").status == 201
        assert get(receiver, "ACCOUNT") == b"old"


class TestCase:
    @pytest.mark.parametrize("sent", ["x.WAV", "x..WAV", "x.Mp3", "x.TXT", "x.Json", "x.vTt"])
    def test_format_is_known_in_any_case_and_the_name_keeps_it(self, receiver, sent):
        target, path = f"call_recording_{sent}", sent.replace("..", ".")
        assert receiver.put(f"/kzr/{target}?from=a", b"one").line.startswith(f"created: {path},")
        assert receiver.metadata(path) == {"from": "a"}
        kept = path.replace("x.", "x~1.")
        assert receiver.put(f"/kzr/{target}", b"two").line.endswith(f"is kept as {kept}")
        answers = [
            receiver.request("GET", f"/kzr/call_recording_{each}", headers=READER)
            for each in (sent, sent.lower())
        ]
        assert [each.status for each in answers] == [200, 404]
        receiver.put(f"/kzr/call_recording_{sent.lower()}", b"three")
        lower = receiver.request("GET", f"/kzr/call_recording_{sent.lower()}", headers=READER)
        assert lower.body == b"three"
        assert lower.headers["Content-Type"] == answers[0].headers["Content-Type"]

    def test_name_in_the_query_is_completed_in_any_case(self, receiver):
        assert receiver.put("/kzr/X.WAV?a=call_recording_Y.mp3").line.startswith("created: X.WAV,")


class TestCallIdThatEndsInADot:
    """Kazoo 4.3 sends `x@h.` as current releases send `x@h`."""

    SHORT = "call_recording_x%40h..mp3?from=a"
    DOT = "call_recording_x%40h..mp3?from=a&call_id=x%40h.&cdr_id=1"

    def test_it_has_a_file_of_its_own(self, receiver):
        assert receiver.put(f"/kzr/{self.SHORT}&call_id=x%40h", b"one").status == 201
        assert receiver.put(f"/kzr/{self.DOT}", b"two").status == 201
        assert receiver.stored() == {"x@h.mp3": b"one", "x@h..mp3": b"two"}
        assert get(receiver, "call_recording_x%40h..mp3") == b"one"
        assert get(receiver, "call_recording_x%40h.mp3") == b"one"
        assert get(receiver, self.DOT) == b"two"
        assert get(receiver, "call_recording_x%40h...mp3") == b"two"  # current releases'

    @pytest.mark.parametrize(
        ("target", "path"),
        [
            ("A/call_recording_x@h..WAV?call_id=x%40h%2E", "A/x@h..WAV"),
            ("call_recording_a%2Fb...mp3?call_id=a/b..", "a%2Fb...mp3"),
            ("call_recording_a/b..mp3?call_id=a%2Fb.", "a%2Fb..mp3"),
            ("call_recording_J%C3%B6..mp3?call_id=J%C3%B6.", "J%C3%B6..mp3"),
            ("?token=a&recording=call_recording_x@h..mp3&call_id=x@h.", "x@h..mp3"),
        ],
    )
    def test_it_is_told_however_it_is_written(self, receiver, target, path):
        mark = "" if target.startswith("?") else "/"
        assert receiver.put(f"/kzr{mark}{target}", b"audio").line.startswith(f"created: {path},")
        assert receiver.request("GET", f"/kzr{mark}{target}", headers=READER).body == b"audio"

    @pytest.mark.parametrize(
        ("target", "path"),
        [
            ("call_recording_x@h.mp3?call_id=x%40h.", "x@h.mp3"),
            ("call_recording_x@h..mp3?call_id=x%40h", "x@h.mp3"),
            ("call_recording_x@h..mp3?call_id=y%40h.", "x@h.mp3"),
            ("call_recording_x@h..mp3?call_id=", "x@h.mp3"),
            ("call_recording_x@h..mp3?id=x%40h.", "x@h.mp3"),
            ("call_recording_x@h...mp3?call_id=x%40h.", "x@h..mp3"),
            ("call_recording_x@h..?call_id=x%40h.", "x@h.~"),
            ("call_recording_x@h.?call_id=x%40h.", "x@h~"),
            ("x@h..mp3?call_id=x%40h.", "x@h.mp3"),
            ("call_recording_../../etc/x..mp3?call_id=../../etc/x.", "%2E.%2F..%2Fetc%2Fx..mp3"),
        ],
    )
    def test_query_tells_nothing_else(self, receiver, target, path):
        assert receiver.put(f"/kzr/{target}").line.startswith(f"created: {path},")
