"""The catalog, while recordings are erased, superseded and described at the same time."""

import logging
import os

import pytest

pytest.importorskip("sqlalchemy")

from receiver.catalog.catalog import Catalog
from receiver.catalog.description import LATEST, look
from receiver.catalog.indexing import Indexer, reindex
from receiver.core.naming import RecordingName
from receiver.errors import NotStored, StorageFailed, StorageUnavailable
from receiver.retention.erasure import Wanted, erase, find
from receiver.storage.paths import numbered
from support.retention import CALL, attach, told
from support.storages import parts_of, publish

WANTED = Wanted(caller="15551234567")
OTHER = told(caller_id_name="Bob", caller_id_number="2", **{"from": "2@x"})


def index(catalog, storage):
    indexer = Indexer(catalog, parts_of(storage))
    for path in (str(CALL), numbered(str(CALL), 1)):
        indexer.add(path)
    indexer.flush(30)


def refresh(catalog, storage):
    for path in (str(CALL), numbered(str(CALL), 1)):
        try:
            catalog.refresh(storage, path)
        except NotStored:
            pass


def forget(catalog, storage):
    """As another purge does, which finds both stored."""
    catalog.forget(storage, [str(CALL), numbered(str(CALL), 1)])


def erase_now(storage, catalog):
    assert erase(storage, catalog, None, WANTED, find(storage, WANTED), lambda receipt: None) == []


def supersede(storage, catalog):
    publish(storage, b"newer, and longer", CALL, metadata=OTHER)


def erase_and_store_again(storage, catalog):
    erase_now(storage, catalog)
    supersede(storage, catalog)


def transcribe(storage, catalog):
    attach(storage, str(CALL), "txt", b"words")


def rows(catalog):
    return {path: catalog.get(path) for path in catalog.paths()}


def stored(storage):
    return {each.path: look(storage, each.path)[1] for each in storage.scan()}


@pytest.mark.parametrize("write", ["add", "remove"])
@pytest.mark.parametrize("happens", [erase_now, supersede, erase_and_store_again, transcribe])
@pytest.mark.parametrize("describe", [index, refresh, reindex, forget])
def test_catalog_has_what_is_stored_whatever_happens_while_it_is_described(
    storage, catalog, tmp_path, monkeypatch, describe, happens, write
):
    """It happens after the storage was read, and right before a row is written or removed."""
    publish(storage, b"one", CALL, metadata=told())
    other, calls = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite"), []
    method = getattr(catalog, write)

    def meanwhile(given):
        given = list(given)
        if not calls:
            calls.append(given)
            happens(storage, other)
        method(given)

    monkeypatch.setattr(catalog, write, meanwhile)
    describe(catalog, storage)
    other.close()
    expected, found = stored(storage), rows(catalog)
    assert found == {path: row for path, row in expected.items() if path in found}
    assert str(CALL) in found or happens is erase_now


@pytest.mark.parametrize("happens", [erase_now, supersede, erase_and_store_again])
@pytest.mark.parametrize("reads", ["", ".json", ".txt"])
@pytest.mark.parametrize("describe", [index, refresh, reindex])
def test_catalog_has_what_is_stored_whatever_happens_while_the_storage_is_read(
    directory, catalog, monkeypatch, describe, reads, happens
):
    """Half of what was read is of one recording, and half of another."""
    publish(directory, b"one", CALL, metadata=told())
    open_one, calls = directory.open, []

    def meanwhile(path):
        if path == f"{CALL}{reads}" and not calls:
            calls.append(path)
            recording = open_one(path) if not reads else None
            with monkeypatch.context() as patch:
                patch.setattr(directory, "open", open_one)
                happens(directory, catalog)
            return recording or open_one(path)
        return open_one(path)

    monkeypatch.setattr(directory, "open", meanwhile)
    describe(catalog, directory)
    monkeypatch.undo()
    expected = stored(directory)
    assert calls and all(row == expected[path] for path, row in rows(catalog).items())


def test_what_never_settles_has_no_row(directory, catalog, monkeypatch):
    publish(directory, b"one", CALL, metadata=told())
    add, texts = catalog.add, iter(range(1000))

    def meanwhile(given):
        add(given)
        attach(directory, str(CALL), "txt", b"%d" % next(texts))

    monkeypatch.setattr(catalog, "add", meanwhile)
    with pytest.raises(StorageUnavailable, match="run flask --app app reindex"):
        catalog.refresh(directory, str(CALL))
    assert list(catalog.paths()) == []


def test_what_cannot_be_read_after_it_was_written_has_no_row(directory, catalog, monkeypatch):
    """Nobody knows whether it was erased meanwhile."""
    publish(directory, b"one", CALL, metadata=told())
    add = catalog.add

    def fail(path):
        raise StorageFailed("broken")

    def break_then_add(given):
        given = list(given)
        monkeypatch.setattr(directory, "open", fail)
        add(given)

    monkeypatch.setattr(catalog, "add", break_then_add)
    with pytest.raises(StorageFailed, match="broken"):
        catalog.refresh(directory, str(CALL))
    assert list(catalog.paths()) == []


class TestOdd:
    """One that cannot be described keeps no other from the catalog, and is told in one line."""

    NAMES = [RecordingName("", str(number), "mp3") for number in range(5)]
    OTHERS = ["0.mp3", "1.mp3", "2.mp3", "4.mp3"]

    def fill(self, directory):
        for name in self.NAMES:
            publish(directory, b"audio", name, metadata=told())

    @pytest.mark.parametrize("seconds", [-(2**40), -1, 0, 8_796_093_022, 9_000_000_000, 2**38])
    def test_times_are_no_trouble(self, directory, catalog, seconds):
        """Before 1970, 1970, in 2248 and later, and past the year 9999."""
        self.fill(directory)
        for name in self.NAMES[2:]:
            os.utime(directory.root / str(name), (seconds,) * 2)
        odd = []
        assert reindex(catalog, directory, odd=lambda *each: odd.append(each)) == 5
        assert odd == []
        assert sorted(catalog.paths()) == sorted(map(str, self.NAMES))
        kept = (directory.root / "2.mp3").stat().st_mtime  # file systems have their own bounds
        assert catalog.get("2.mp3").received == min(kept, LATEST)

    @pytest.mark.parametrize(
        "error",
        [
            StorageFailed("broken\nline"),
            OSError(5, "Input/output error"),
            OverflowError("too large"),
            ValueError("no"),
            RecursionError(),
            StorageUnavailable("away"),
        ],
    )
    def test_what_cannot_be_read_is_told(self, directory, catalog, monkeypatch, error, caplog):
        self.fill(directory)
        open_one = directory.open

        def fail(path):
            if path == "3.mp3":
                raise error
            return open_one(path)

        monkeypatch.setattr(directory, "open", fail)
        odd = []
        reindex(catalog, directory, odd=lambda path, error: odd.append(path))
        assert (odd, sorted(catalog.paths())) == (["3.mp3"], self.OTHERS)
        catalog.remove(self.OTHERS)
        with caplog.at_level(logging.WARNING):
            catalog.forget(directory, map(str, self.NAMES))
            indexer = Indexer(catalog, parts_of(directory))
            for name in self.NAMES:
                indexer.add(str(name))
            indexer.flush(30)
        assert sorted(catalog.paths()) == self.OTHERS
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 2 and all(line.isprintable() for line in lines)

    @pytest.mark.parametrize(
        "data", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"duration": "1e999"}']
    )
    def test_metadata_are_no_trouble(self, directory, catalog, data):
        self.fill(directory)
        attach(directory, "3.mp3", "json", data)
        assert reindex(catalog, directory, odd=pytest.fail) == 5
        assert len(list(catalog.paths())) == 5

    def test_names_that_are_no_text_are_told(self, directory, catalog):
        self.fill(directory)
        (directory.root / "\udcfc.mp3").write_bytes(b"audio")
        odd = []
        reindex(catalog, directory, odd=lambda path, error: odd.append((path, str(error))))
        assert odd == [("\udcfc.mp3", "its name is not UTF-8: rename it")]
        assert len(list(catalog.paths())) == 5
