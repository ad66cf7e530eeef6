"""Names and reasons from elsewhere, as one line that terminals and logs take."""


def shown(text: object) -> str:
    r"""The text with all escaped that is not printable: a byte that is not UTF-8 is \xfc."""
    return "".join(char if char.isprintable() else _escaped(char) for char in str(text))


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a surrogate escape
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
