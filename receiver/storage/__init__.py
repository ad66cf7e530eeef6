"""Where recordings are kept."""

from .base import Outcome, Recording, Storage, Stored
from .directory import DirectoryStorage

__all__ = ["Outcome", "Recording", "Storage", "Stored", "open_storage"]


def open_storage(url: str, *, min_free: int, supersede: bool) -> Storage:
    """Open the storage that `KZR_STORAGE` names: the path of a directory."""
    return DirectoryStorage(url, min_free=min_free, supersede=supersede)
