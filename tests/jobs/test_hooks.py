"""Work after storing: which there is, and checksums."""

import pytest

pytest.importorskip("sqlalchemy")

from receiver import config
from receiver.catalog.catalog import Catalog
from receiver.core.naming import sidecar
from receiver.errors import CatalogUnavailable, NotStored, SettingError
from receiver.jobs.event import Event, JobFailed
from receiver.jobs.kinds import _unless_gone, kinds
from receiver.storage import sidecars
from receiver.storage.paths import numbered
from support.hooks import DIGEST, PATH, SECRET, TOLD, store, work
from support.hooks import read as read_file
from support.storages import parts_of


class TestKinds:
    def test_no_settings_ask_for_nothing(self, storage):
        assert kinds(config.load({}), parts_of(storage)) == {}

    def test_kinds_come_in_order(self, storage):
        settings = {
            "TRANSCRIBE_URL": "http://127.0.0.1/",
            "WEBHOOK_URL": "https://example.com/",
            "WEBHOOK_SECRET": SECRET,
            "ON_STORED": "true",
            "CHECKSUMS": "yes",
        }
        found = kinds(config.load(settings), parts_of(storage))
        assert list(found) == ["checksum", "command", "webhook", "transcription"]

    @pytest.mark.parametrize("secret", ["", "whsec_", "whsec_no base64!"])
    def test_webhook_needs_a_secret(self, storage, secret):
        with pytest.raises(SettingError, match="KZR_WEBHOOK_SECRET"):
            work("webhook", storage, WEBHOOK_URL="https://example.com/", WEBHOOK_SECRET=secret)

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            ("checksum", {"CHECKSUMS": "yes"}),
            ("command", {"ON_STORED": "false"}),
            ("webhook", {"WEBHOOK_URL": "http://127.0.0.1:1/", "WEBHOOK_SECRET": SECRET}),
            ("transcription", {"TRANSCRIBE_URL": "http://127.0.0.1:1/"}),
        ],
    )
    def test_a_recording_that_is_gone_is_no_failure(self, storage, kind, settings):
        event = store(storage)
        storage.delete(PATH)
        assert work(kind, storage, **settings)(event) == "the recording is gone"
        store(storage, b"others have the name")
        assert work(kind, storage, **settings)(event) == "the recording is gone"

    def test_a_recording_that_is_superseded_in_the_middle_is_tried_again(self, storage):
        event = store(storage)

        def supersede_first(event: Event) -> str:
            store(storage, b"another")
            storage.attach(event.path, "txt", b"text", event.etag)
            return "done"

        with pytest.raises(NotStored):
            _unless_gone(parts_of(storage), supersede_first, event)

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            ("checksum", {"CHECKSUMS": "yes"}),
            ("command", {"ON_STORED": "true"}),
            ("webhook", {"WEBHOOK_URL": "http://127.0.0.1:1/", "WEBHOOK_SECRET": SECRET}),
        ],
    )
    def test_metadata_of_other_bytes_is_not_taken_for_its_own(
        self, storage, monkeypatch, kind, settings
    ):
        event = store(storage)
        read = sidecars.read

        def supersede_first(storage, path, kind):
            monkeypatch.setattr(sidecars, "read", read)
            store(storage, b"another", metadata=b'{"from": "another"}')
            return read(storage, path, kind)

        monkeypatch.setattr(sidecars, "read", supersede_first)
        with pytest.raises(NotStored):
            work(kind, storage, **settings)(event)
        assert sidecars.told(storage, PATH) == {"from": "another"}


class TestChecksum:
    def test_it_is_in_the_metadata_with_all_else(self, storage):
        event = store(storage, metadata=b'{\n "from": "1001"\n}\n')
        assert work("checksum", storage, CHECKSUMS="yes")(event) == DIGEST
        expected = f'{{\n "from": "1001",\n "sha256": "{DIGEST}"\n}}\n'
        assert read_file(storage, sidecar(PATH, "json")) == expected.encode()

    def test_it_is_there_without_other_metadata(self, storage):
        event = store(storage, metadata=b"")
        work("checksum", storage, CHECKSUMS="yes")(event)
        assert sidecars.told(storage, PATH) == {"sha256": DIGEST}

    def test_what_the_sender_told_does_not_count(self, storage):
        event = store(storage, metadata=b'{"sha256": "0"}')
        work("checksum", storage, CHECKSUMS="yes")(event)
        assert sidecars.told(storage, PATH) == {"sha256": DIGEST}

    @pytest.mark.parametrize("text", [b"[1]", b"{", b"no JSON", b"\n"])
    def test_metadata_that_cannot_be_read_is_not_overwritten(self, storage, text):
        event = store(storage, metadata=text)
        with pytest.raises(JobFailed, match="left as it is"):
            work("checksum", storage, CHECKSUMS="yes")(event)
        assert read_file(storage, sidecar(PATH, "json")) == text

    def test_a_superseded_recording_gets_its_own(self, storage):
        event = store(storage)
        newer = store(storage, b"newer", metadata=b"")
        assert newer.outcome == "superseded"
        work("checksum", storage, CHECKSUMS="yes")(event)
        assert sidecars.told(storage, numbered(PATH, 1))["sha256"] == DIGEST
        assert sidecars.told(storage, PATH) == {}

    def test_the_catalog_knows_it(self, storage, catalog):
        event = store(storage)
        work("checksum", storage, catalog, CHECKSUMS="yes")(event)
        assert catalog.get(PATH).sha256 == DIGEST
        assert catalog.get(PATH).caller_name == TOLD["caller_id_name"]

    def test_a_catalog_that_is_down_is_tried_again(self, storage, tmp_path):
        catalog = Catalog(f"sqlite:///{tmp_path}/missing/catalog.sqlite")
        event = store(storage)
        with pytest.raises(CatalogUnavailable):
            work("checksum", storage, catalog, CHECKSUMS="yes")(event)
        (tmp_path / "missing").mkdir()
        work("checksum", storage, catalog, CHECKSUMS="yes")(event)
        assert catalog.get(PATH).sha256 == DIGEST
        catalog.close()

    def test_what_other_work_attaches_meanwhile_is_in_the_catalog(
        self, storage, catalog, monkeypatch
    ):
        """Another worker attaches, and tells the catalog, before this one's row is added."""
        event, add = store(storage), catalog.add

        def attach_before(found):
            monkeypatch.undo()
            storage.attach(PATH, "txt", b"hello\n", event.etag)
            catalog.refresh(storage, PATH)
            add(found)

        monkeypatch.setattr(catalog, "add", attach_before)
        catalog.refresh(storage, PATH)
        assert catalog.get(PATH).transcript == "hello\n"
