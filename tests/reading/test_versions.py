"""Recordings of one name: whoever names one by its id gets that one, or none."""

import threading
from urllib.parse import quote

import pytest

from support.clients import Client
from support.forms import TYPE, B, form
from support.reading import USER, get, new_name, put
from support.receivers import Receiver

IN_CHANNEL = "custom_channel_vars[Media-Recording-ID]"


class Call:
    """A call of which several recordings are stored, each with the id that its upload tells."""

    def __init__(self, server: Client, *ids: str, name: str = "") -> None:
        self.server = server
        self.target = f"/kzr/call_recording_{name or new_name()}.mp3"
        for id_ in ids:
            self.add(id_)

    def add(self, id_: str, field: str = "recording_id") -> None:
        query = f"?call_id=x&{field}={quote(id_, safe='')}" if id_ else "?call_id=x"
        put(self.server, self.target + query, self.audio(id_))

    def audio(self, id_: str) -> bytes:
        return f"recording {id_ or 'without'} of {self.target}".encode()

    def read(self, query: str = "", method: str = "GET", **headers: str) -> bytes | int:
        answer = get(self.server, f"{self.target}{query}", method, **headers)
        return answer.body if answer.status in (200, 206) else answer.status


class TestEveryServer:
    def test_each_id_gets_its_own_recording(self, server):
        call = Call(server, "A", "B", "C")
        for id_ in "ABC":
            for query in (f"?id={id_}", f"?recording_id=C{id_}/x&id={id_}", f"?{IN_CHANNEL}={id_}"):
                assert call.read(query) == call.audio(id_)
        assert call.read() == call.audio("C")

    def test_id_that_none_has_is_that_of_the_newest_of_which_none_is_known(self, server):
        call = Call(server, "", "A")
        assert call.read("?id=other") == call.audio("")
        assert call.read("?id=A") == call.audio("A")

    def test_where_all_have_other_ids_there_is_none(self, server):
        call = Call(server, "A", "B")
        answer = get(server, f"{call.target}?id=C")
        assert (answer.status, b"recording" in answer.body) == (404, True)
        assert call.audio("B") not in answer.body
        assert call.read("?id=C", "HEAD") == 404

    def test_head_and_ranges_are_of_the_one_that_is_named(self, server):
        call = Call(server, "A", "long-B")
        length = get(server, f"{call.target}?id=A", "HEAD").headers["Content-Length"]
        assert int(length) == len(call.audio("A"))
        assert call.read("?id=A", Range="bytes=10-12") == call.audio("A")[10:13]
        etags = {get(server, f"{call.target}?id={i}").headers["ETag"] for i in ("A", "long-B")}
        assert len(etags) == 2
        for etag in etags:
            answers = [
                get(server, f"{call.target}?id={id_}", If_None_Match=etag).status
                for id_ in ("A", "long-B")
            ]
            assert sorted(answers) == [200, 304]

    def test_any_of_many_is_found(self, server):
        ids = [f"id-{number}" for number in range(12)]
        call = Call(server, *ids)
        for id_ in ids:
            assert call.read(f"?id={id_}") == call.audio(id_)

    def test_form_tells_an_id_in_its_document(self, server):
        call = Call(server)
        for id_ in "AB":
            document = {"id": id_, "custom_channel_vars": {"Media-Recording-ID": "Z"}}
            headers = {"Content-Type": TYPE + B}
            body = form(call.audio(id_), document)
            assert server.request("PUT", call.target, body, headers=headers).status in (200, 201)
        for id_ in "AB":
            assert call.read(f"?id={id_}") == call.audio(id_)
        assert call.read("?id=Z") == 404

    def test_named_recording_is_answered_while_others_take_the_name(self, server):
        call = Call(server, "A")
        ids = [f"B{number}" for number in range(12)]
        ends = threading.Event()
        found = {"A": set(), ids[-1]: set()}

        def read(id_: str) -> None:
            while not ends.is_set():
                found[id_].add(call.read(f"?id={id_}"))

        readers = [threading.Thread(target=read, args=(id_,)) for id_ in found]
        for reader in readers:
            reader.start()
        for id_ in ids:
            call.add(id_)
        ends.set()
        for reader in readers:
            reader.join()
        assert found["A"] == {call.audio("A")}
        assert found[ids[-1]] <= {404, call.audio(ids[-1])}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    server = Receiver(tmp_path_factory.mktemp("versions"), readers=USER)
    yield server
    server.stop()


class TestIds:
    @pytest.mark.parametrize(
        "query",
        [
            "?id=A%2DB",
            "?id=%41-B",
            "?id=&id=A-B",
            "?id=A-B&id=",
            "?id=Z&id=A-B",
            "?recording_id=Z&id=A-B",
            "?recording_id=A-B",
            f"?{IN_CHANNEL}=Z&id=A-B",
            f"?id=&{IN_CHANNEL}=A-B",
            "?custom_channel_vars%5BMedia-Recording-ID%5D=A-B",
            "?from=a&to=b&id=A-B&x=y",
        ],
    )
    def test_id_in_any_spelling(self, receiver, query):
        call = Call(receiver, "A-B", "Z")
        assert call.read(query) == call.audio("A-B")

    @pytest.mark.parametrize("query", ["", "?id=", "?id", f"?id=&{IN_CHANNEL}=", "?ID=A", "?x=A"])
    def test_without_an_id_it_is_the_newest(self, receiver, query):
        call = Call(receiver, "A", "B")
        assert call.read(query) == call.audio("B")

    @pytest.mark.parametrize("query", ["?id=a", "?id=A%20", "?id=A%00", "?id=%E4", "?id=A&id=B"])
    def test_another_id_is_another(self, receiver, query):
        call = Call(receiver, "A", "C")
        assert call.read(query) == 404

    @pytest.mark.parametrize("id_", ["a b", "a+b", "ä", "%2F", "x" * 300, "a/b&c=d"])
    def test_id_may_hold_anything(self, receiver, id_):
        call = Call(receiver, id_, "other")
        assert call.read(f"?id={quote(id_, safe='')}") == call.audio(id_)

    @pytest.mark.parametrize("field", ["recording_id", "id", IN_CHANNEL])
    def test_upload_tells_its_id_in_each_way(self, receiver, field):
        call = Call(receiver)
        for id_ in "AB":
            call.add(id_, quote(field))
        assert [call.read(f"?id={id_}") for id_ in "ABC"] == [call.audio("A"), call.audio("B"), 404]

    @pytest.mark.parametrize("field", ["recording_id", "id", IN_CHANNEL])
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("&".join(f"v{n}=1" for n in range(80)) + "&", ""),
            ("", "&{field}="),
            ("{field}=Z&", "&{field}=&{field}"),
        ],
        ids=["after many fields", "an empty one follows", "it is repeated"],
    )
    def test_id_of_an_upload_is_never_dropped(self, receiver, field, before, after):
        call = Call(receiver)
        for id_ in "AB":
            query = f"{before}{{field}}={id_}{after}".format(field=quote(field))
            put(receiver, f"{call.target}?{query}", call.audio(id_))
        for id_ in "AB":
            assert call.read(f"?id={id_}") == call.audio(id_)
        assert call.read("?id=C") == 404

    def test_id_of_a_long_document_is_never_dropped(self, receiver):
        call = Call(receiver)
        many = {f"v{n}": n for n in range(80)}
        last = (
            {"recording_id": "A"},
            {"id": "B"},
            {"custom_channel_vars": {"Media-Recording-ID": "C"}},
        )
        for id_, told in zip("ABC", last, strict=True):
            headers = {"Content-Type": TYPE + B}
            body = form(call.audio(id_), many | told)
            assert receiver.request("PUT", call.target, body, headers=headers).status in (200, 201)
        assert [call.read(f"?id={id_}") for id_ in "ABC"] == [call.audio(id_) for id_ in "ABC"]

    def test_own_id_counts_before_the_channels(self, receiver):
        """Two recordings on one leg share its variables."""
        call = Call(receiver, "A")
        put(receiver, f"{call.target}?recording_id=B&{quote(IN_CHANNEL)}=A", call.audio("B"))
        assert call.read("?id=A") == call.audio("A")
        assert call.read("?id=B") == call.audio("B")

    def test_newest_of_those_without_an_id(self, receiver):
        call = Call(receiver)
        for number in range(3):
            put(receiver, call.target, b"%d" % number)
        call.add("A")
        assert call.read("?id=other") == b"2"
        assert call.read("?id=A") == call.audio("A")

    def test_newest_of_those_with_the_same_id(self, receiver):
        call = Call(receiver)
        for number in range(2):
            put(receiver, f"{call.target}?recording_id=A", b"%d" % number)
        call.add("B")
        assert call.read("?id=A") == b"1"

    def test_deleted_recording_is_not_replaced_by_another(self, receiver):
        name = new_name()
        call = Call(receiver, "A", "B", "C", name=name)
        for number, gone in ((1, "A"), (0, "C")):
            path = f"{name}~{number}.mp3" if number else f"{name}.mp3"
            for file in (path, f"{path}.json"):
                (receiver.storage / file).unlink()
            assert call.read(f"?id={gone}") == 404
            assert call.read("?id=B") == call.audio("B")

    @pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"id": null}', "[" * 5000])
    def test_unreadable_metadata_tell_no_id(self, receiver, text):
        name = new_name()
        call = Call(receiver, "A", name=name)
        (receiver.storage / f"{name}.mp3.json").write_text(text)
        assert call.read("?id=A") == call.audio("A")

    def test_number_is_an_id_too(self, receiver):
        call = Call(receiver)
        for number in (5, 6):
            headers = {"Content-Type": TYPE + B}
            body = form(b"%d" % number, {"id": number})
            assert receiver.request("PUT", call.target, body, headers=headers).status in (200, 201)
        assert [call.read(f"?id={number}") for number in (5, 6, 7)] == [b"5", b"6", 404]

    def test_recording_that_was_being_superseded_when_all_was_killed(self, receiver):
        name = new_name()
        call = Call(receiver, "A", "B", name=name)
        new, about = f"{name}~new.mp3", f"{name}.mp3.json"
        (receiver.storage / new).write_bytes(b"C, never acknowledged")
        (receiver.storage / about).write_text('{"recording_id": "C"}')
        (receiver.storage / f"{name}~2.mp3").hardlink_to(receiver.storage / f"{name}.mp3")
        (receiver.storage / f"{name}~2.mp3.json").write_text('{"recording_id": "B"}')
        assert call.read("?id=A") == call.audio("A")
        assert call.read("?id=B") == call.audio("B")
        assert call.read("?id=C") in (b"C, never acknowledged", 404)

    def test_recording_of_an_earlier_release_is_found_by_its_id(self, receiver):
        folder = receiver.storage / "sip.example.au"
        folder.mkdir()
        (folder / "x.mp3").write_bytes(b"old")
        (folder / "x.mp3.json").write_text('{"recording_id": "A"}')
        target = "/kzr/sip.example.au/x.mp3"
        put(receiver, f"{target}?recording_id=B", b"new")
        assert [get(receiver, f"{target}?id={i}").body for i in "AB"] == [b"old", b"new"]
        assert get(receiver, f"{target}?id=C").status == 404


class TestPaths:
    """Kazoo adds to the URL that stored a recording; what it adds is cut off as it was sent."""

    @pytest.mark.parametrize(
        "path",
        [
            "ACC/call_recording_f%40h.mp3",
            "ACC/call_recording_f%40h..mp3",
            "call_recording_f%40h.mp3",
            "ACC/call_recording_a%2Fb.mp3",
            "ACC/call_recording_a+b%2Bc.mp3",
            "ACC/call_recording_100%25.mp3",
            "ACC/call_recording_%c3%a4.",
            "ACC/DOC/x.mp3.hold",
            "ACC/DOC/a..mp3",
            "ACC/DOC/%61.mp3",
            "ACC/" + "n" * 300 + ".mp3",
            "ACC/call_recording_" + "n" * 300 + ".mp3",
            "/".join(f"f{number}" for number in range(10)) + "/x.mp3",
            "/".join("f" * 60 for number in range(8)) + "/x.mp3",
        ],
    )
    def test_path_twice_in_a_row(self, receiver, path):
        for added in ("", "?id=DOC", "?name=call_recording_y.mp3&id=DOC", "?call_id=f%40h.&id=D"):
            put(receiver, f"/kzr/{path}", path.encode())
            answer = get(receiver, f"/kzr/{path}/{path}{added}")
            assert (answer.status, answer.body) == (200, path.encode()), answer.text
            head = get(receiver, f"/kzr/{path}/{path}{added}", "HEAD")
            assert int(head.headers["Content-Length"]) == len(path)

    def test_path_without_an_extension_and_a_name_in_the_query(self, receiver):
        put(receiver, "/kzr/ACC/GROUP", b"audio")
        answer = get(receiver, "/kzr/ACC/GROUP/ACC/GROUP?name=call_recording_y.mp3&id=D")
        assert answer.body == b"audio"

    @pytest.mark.parametrize("stored", ["N.mp3", "ACC/N.mp3", "ACC_DOC_N.mp3", "A/B/C/N.mp3"])
    @pytest.mark.parametrize("owner", ["", "OWNER/"])
    def test_path_of_a_field_list_and_kazoos_own_behind_it(self, receiver, stored, owner):
        put(receiver, f"/kzr/{stored}", stored.encode())
        for name in ("N.mp3", "call_recording_N.mp3", "N%40h.mp3"):
            target = f"/kzr/{stored}/ACC/{owner}202611-D/{name}"
            assert get(receiver, f"{target}?from=a&id=202611-D").body == stored.encode()
            assert get(receiver, f"{target}?id=202611%2DD", "HEAD").status == 200
            assert get(receiver, f"{target}?from=a&id=202611-E").status == 404
            assert get(receiver, target).status == 404

    def test_several_of_a_field_list_are_told_apart(self, receiver):
        for id_ in "AB":
            put(receiver, f"/kzr/group.mp3?recording_id={id_}", id_.encode())
        for id_ in "AB":
            assert get(receiver, f"/kzr/group.mp3/ACC/{id_}/n.mp3?id={id_}").body == id_.encode()
            assert get(receiver, f"/kzr/group.mp3/group.mp3?id={id_}").body == id_.encode()
        assert get(receiver, "/kzr/group.mp3/ACC/C/n.mp3?id=C").status == 404

    def test_who_may_not_read_learns_nothing(self, receiver):
        path = "ACC/" + "n" * 300 + ".mp3"
        put(receiver, f"/kzr/{path}", b"audio")
        assert receiver.request("GET", f"/kzr/{path}/{path}").status == 401
