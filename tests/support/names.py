"""Names as Kazoo sends them."""

from urllib.parse import quote


def as_kazoo(call_id: str, extension: str) -> str:
    """The name as Kazoo's current releases send it: all encoded, the dot doubled."""
    data = call_id.encode("utf-8", "surrogateescape")
    return f"call_recording_{quote(data, safe='')}." + (f".{extension}" if extension else "")
