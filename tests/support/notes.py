"""What a folder of recordings holds for itself, besides recordings and what lies beside them."""

from receiver.storage.place import MARKER

__all__ = ["MARKER"]


def is_note(filename: str) -> bool:
    """Whether a file is the storage's own: its id, or a list of the older recordings of a name."""
    return filename == MARKER or filename.startswith(".") and filename.endswith(".versions")
