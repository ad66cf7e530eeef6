"""The words of texts, as the catalog stores and compares them."""

import re
import unicodedata
from collections.abc import Iterator

LONGEST_TERM = 64  # characters
MOST_PAIRS = 16  # of a word that is searched; of a longer one, every other pair

# Scripts that put no spaces between words (of Unicode's line breaking classes ID and SA), and
# Hangul, which does between phrases: their words are found by the pairs of characters in them.
_RANGES = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x1AAF),  # Tai
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3031, 0x3035),
    (0x3038, 0x303C),
    (0x3041, 0x309F),  # Hiragana
    (0x30A1, 0x30FA),  # Katakana
    (0x30FC, 0x31BF),  # and its marks, Bopomofo, parts of Hangul
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0xA4CF),  # Han, Yi
    (0xA980, 0xA9FF),  # Javanese, Burmese
    (0xAA60, 0xAADF),  # Burmese, Tai
    (0xAC00, 0xD7FF),  # Hangul
    (0xF900, 0xFAFF),
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # Kana, Nushu
    (0x20000, 0x3FFFF),  # Han
)
SPACELESS = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _RANGES)}]+")

# Letters that Unicode does not decompose, and whose names do not tell what they are a form of, as
# CLDR's transform Latin-ASCII has them; then letters of one sound that keyboards tell apart.
_LETTERS = {
    **{"æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ı": "i", "ȷ": "j", "ŋ": "n", "ĸ": "q"},
    **{"ɛ": "e", "ƕ": "hv", "ƣ": "oi", "ȸ": "db", "ȹ": "qp", "ꜳ": "aa", "ꜵ": "ao", "ꜷ": "au"},
    **{"ꜹ": "av", "ꜽ": "ay", "ꝏ": "oo", "ꝡ": "vy", "ỻ": "ll", "ỽ": "v", "ɡ": "g", "ʉ": "u"},
    **{"ɩ": "i", "ɐ": "a", "ǝ": "e", "ə": "e", "ɔ": "o", "ƿ": "w", "ʊ": "u", "ʌ": "v"},
    **{"ی": "ي", "ى": "ي", "ک": "ك", "ة": "ه", "ـ": ""},
    "ҡ": "к",
    **dict.fromkeys("’‘‛ʼʻ′`", "'"),
}


class _Bases(dict[int, str]):
    """What stands for a character, by its number."""

    def __missing__(self, number: int) -> str:
        base = _base(chr(number))
        if number < 0x3000:  # few enough to keep
            self[number] = base
        return base


def _base(char: str) -> str:
    category = unicodedata.category(char)
    if char == "\0" or category == "Cf" or unicodedata.combining(char):
        return ""  # marks of direction, joiners, accents
    if char in _LETTERS:
        return _LETTERS[char]
    if category == "Pd":
        return "-"
    if category[0] == "L" and " WITH " in (name := unicodedata.name(char, "")):
        try:
            return folded(unicodedata.lookup(name.partition(" WITH ")[0]))
        except KeyError:
            pass
    return char


_bases = _Bases()


def folded(text: str) -> str:
    """A text without case, accents and strokes, and without the NUL that PostgreSQL refuses."""
    if text.isascii():
        return text.lower().replace("\0", "")
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = unicodedata.normalize("NFKD", plain).translate(_bases)
    return unicodedata.normalize("NFC", plain)  # Hangul's syllables are characters again


def cut(term: str) -> str:
    """A term as it is stored; to MariaDB, those with spaces at their ends are the same."""
    return term[:LONGEST_TERM].strip()


def words_in(text: str) -> Iterator[str]:
    """The terms that a text is found by, in their order, some of them several times."""
    for word in folded(text).split():
        if not SPACELESS.search(word):
            yield cut(word)
            yield from map(cut, re.findall(r"\w{3,}", word))
            continue
        for run in SPACELESS.findall(word):
            yield from _pairs(run)
            yield run[-1]
        yield from map(cut, _others(word))


def parts_of(word: str) -> list[str]:
    """What terms have to begin with, all of these, of what has a folded word in it."""
    if not SPACELESS.search(word):
        return [cut(word)]
    found = []
    for run in SPACELESS.findall(word):
        pairs = _pairs(run) or [run]
        found += pairs if len(pairs) <= MOST_PAIRS else [*pairs[::2], pairs[-1]]
    return list(dict.fromkeys(found + [cut(other) for other in _others(word)]))


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]


def _others(word: str) -> list[str]:
    """The parts of a word that are in other scripts."""
    return re.findall(r"\w{2,}", SPACELESS.sub(" ", word))
