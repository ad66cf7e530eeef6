"""The receiver's regular expressions: which see what strangers sent, and the worst for each.

Bounds on inputs hide what an expression costs. So each is measured here alone, with texts that are
as long as one likes: `tests/proof/doubling.py` does that.
"""

import ast
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from support.paths import PROJECT

FUNCTIONS = ("compile", "match", "fullmatch", "search", "sub", "split", "findall", "finditer")

OPERATOR = "only who runs the receiver writes this"
SERVER = "only a database or a bucket says this"
OURS = "the receiver's own notes and names"
SYSTEM = "only the system tells this"
ASKED = "the answer of the receiver that its operator checks"
BUILT = "made of what was sent, which is escaped: measured with the parser around it"


@dataclass(frozen=True)
class Expression:
    """A call of `re`, with its arguments as they are written; `owner` is where they are."""

    file: str
    owner: str
    pattern: str
    flags: str

    @property
    def key(self) -> str:
        return f"{self.file}: {self.owner}"

    def compiled(self) -> re.Pattern[Any]:
        name = "receiver." + self.file.removesuffix(".py").replace("/", ".")
        names = vars(importlib.import_module(name))
        return re.compile(*(eval(each, dict(names)) for each in (self.pattern, self.flags)))


@dataclass(frozen=True)
class Worst:
    """How an expression is used, and texts that cost it most: `before`, `repeated` and `after`."""

    use: str
    texts: tuple[tuple[str, str, str], ...]


def worst(use: str, *texts: tuple[str, str, str]) -> Worst:
    return Worst(use, texts)


def expressions() -> Iterator[Expression]:
    """All calls of `re` in the receiver."""
    for path in sorted((PROJECT / "receiver").rglob("*.py")):
        file = str(path.relative_to(PROJECT / "receiver"))
        seen: Counter[str] = Counter()
        for owner, node in _calls(ast.parse(path.read_text()), ""):
            seen[owner] += 1
            flags = node.args[1:] if node.func.attr == "compile" else []
            flags += [each.value for each in node.keywords if each.arg == "flags"]
            yield Expression(
                file,
                f"{owner} {seen[owner]}" if seen[owner] > 1 else owner,
                ast.unparse(node.args[0]),
                ast.unparse(flags[0]) if flags else "0",
            )


def _calls(node: ast.AST, owner: str) -> Iterator[tuple[str, Any]]:
    """The calls of `re`, each with the name of what it is given to, or else is in."""
    for child in ast.iter_child_nodes(node):
        name = owner
        if isinstance(child, ast.FunctionDef):
            name = child.name
        elif isinstance(child, ast.Assign) and not owner:
            name = ast.unparse(child.targets[0])
        elif isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            if ast.unparse(child.func.value) == "re" and child.func.attr in FUNCTIONS:
                yield name, child
        yield from _calls(child, name)


WORD = (("", "a", "-"), ("", "a ", ""), ("", "-", ""))
SEEN: dict[str, str | Worst] = {
    "access.py: _WITH_PORT": worst(
        "fullmatch", ("", "1", "x"), ("", "1:", ""), ("", "[", ""), ("[", "a", "")
    ),
    "access.py: _WITH_ZONE": worst("fullmatch", ("::", "%", "!"), ("::%", "a", "!")),
    "access.py: __call__": worst("search", ("", "a", "")),
    "access.py: _matches": worst("match", ("", "0", "")),
    "access.py: _matches 2": OPERATOR,
    "catalog/description.py: _INTERACTION": worst("match", ("", "1", "")),
    "catalog/words.py: SPACELESS": worst("search", ("", "a", ""), ("", "あ", "a")),
    "catalog/words.py: words_in": worst("search", *WORD, ("", "aa-", "")),
    "catalog/words.py: _others": worst("search", *WORD),
    "check/checks.py: report": ASKED,
    "check/checks.py: parse_url": OPERATOR,
    "check/probe.py: stored": ASKED,
    "commands/service.py: _QUOTED": OPERATOR,
    "commands/service.py: _BARE": OPERATOR,
    "commands/service.py: _NAME": OPERATOR,
    "commands/service.py: read_settings": OPERATOR,
    "commands/service.py: _unescaped": OPERATOR,
    "config.py: _HASH": OPERATOR,
    "config.py: size": OPERATOR,
    "config.py: url_prefix": OPERATOR,
    "config.py: networks": OPERATOR,
    "config.py: web_url": OPERATOR,
    "config.py: keep_days": OPERATOR,
    "config.py: page_path": OPERATOR,
    "core/naming.py: _RECORDING": worst(
        "fullmatch", ("", "/", ""), ("", "/call_recording", ""), ("x", "call_recording_", "")
    ),
    "core/naming.py: _PLAIN": worst("fullmatch", ("", "/", "")),
    "core/naming.py: _NAME": worst(
        "fullmatch", ("", ".", "\n"), ("", ".mp3", "x"), ("", "..mp", "")
    ),
    "core/naming.py: EXTENDED": worst(
        "fullmatch", ("", ".", ""), ("", ".mp3", "x"), ("", "..mp", "")
    ),
    "core/naming.py: _NOT_ORDINARY": worst("search", ("", "a", ""), ("", ".", "")),
    "core/naming.py: filename": worst("search", ("", "%", ""), ("", "%a", "")),
    "core/naming.py: to_url": worst("search", ("", "/c", ""), ("", "/", "")),
    "gunicorn_worker.py: parse_request_line": worst("search", ("", "a", "")),
    "numbers.py: _NUMBER": worst(
        "fullmatch", ("", "(", "x"), ("", " ", "x"), ("", "+", "x"), ("", "1 ", "x")
    ),
    "numbers.py: _EXTENSION": worst(
        "fullmatch", ("", "#", "x"), ("#", " ", "x"), ("ext", ".", "x")
    ),
    "numbers.py: _CODE": worst("fullmatch", ("", "*", ""), ("", "#1", "")),
    "numbers.py: _ADDRESS": worst("fullmatch", ("", "1.", "")),
    "numbers.py: _TRUNK": worst("search", ("", "(0", ""), ("", "( ", "")),
    "numbers.py: numbers_in": worst("search", ("", "a", ""), ("", " a", "")),
    "numbers.py: may_hold": worst("search", ("", "a", "")),
    "numbers.py: _only_digits": worst("search", ("", "1", "")),
    "page/presentation.py: _FORMULA": worst(
        "search", ("", " ", "x"), ("", "\t", ""), ("", ", ", ""), ("", "+1", "x"), ("+", "1", "x")
    ),
    "page/presentation.py: _UNSAFE_IN_FILENAMES": worst("search", ("", "a", "")),
    "page/presentation.py: _FORMATTING": worst("search", ("", "a", "")),
    "page/query.py: parse_query": worst("fullmatch", ("", "1", "")),
    "page/query.py: parse_query 2": worst("fullmatch", ("", "1", "")),
    "page/query.py: parse_at": worst("fullmatch", ("", "1", "")),
    "page/query.py: parse_received": worst("fullmatch", ("", "1", ""), ("-", "1", "")),
    "page/transcript.py: _BREAK": worst("search", ("", "a", "")),
    "page/transcript.py: _TIMES": worst(
        "fullmatch",
        ("", " ", ""),
        ("", "1", ""),
        ("1", " ", ""),
        ("1-->", " ", ""),
        ("", "1-->", ""),
    ),
    "page/transcript.py: _TIME": worst("fullmatch", ("", "1", ""), ("", "1:", "")),
    "page/transcript.py: _VOICE": worst(
        "search", ("", "<v ", ""), ("<v ", "a", ""), ("<v.", "a", ""), ("", "<v.a", "")
    ),
    "page/transcript.py: _TAG": worst("search", ("", "<", ""), ("", "<a", "")),
    "page/transcript.py: _NO_CUE": worst("match", ("", "NOTE", "")),
    "page/transcript.py: _hits": worst("search", ("", " ", "")),
    "page/transcript.py: _hits 2": worst("search", *WORD, ("", "aa-", "")),
    "page/transcript.py: _hits_inside": BUILT,
    "reading/audit.py: _is_first": worst("match", ("bytes=", "0", "")),
    "reading/conditions.py: _RANGE": worst(
        "fullmatch",
        ("bytes", " ", ""),
        ("bytes=", ",", ""),
        ("bytes=", "1", ""),
        ("bytes=1-", "1", "x"),
        ("bytes=1-2", ", ", "x"),
    ),
    "senders/forms.py: _BOUNDARY": worst(
        "match",
        ("multipart/form-data", ";", ""),
        ("multipart/form-data;", " ", ""),
        ("multipart/form-data", "; ", ""),
        ("multipart/form-data", ';boundary=""', ""),
        ('multipart/form-data;boundary="', "a", ""),
    ),
    "senders/forms.py: _BASE64": worst("fullmatch", ("", "a", "-")),
    "senders/forms.py: _KNOWN_STARTS": worst("match", ("", "a", "")),
    "senders/forms.py: __init__": BUILT,
    "senders/metadata.py: _AS_FORMS_ARE": worst(
        "fullmatch", ("", "a", " "), ("", "%", ""), ("", "%ff", "%")
    ),
    "senders/metadata.py: _INNER_PLUS": worst(
        "search", ("a", "+", ""), ("", "+", "a"), ("", "a+", "")
    ),
    "senders/sent.py: _SHA256": worst(
        "search", (",", " ", ""), ("", ", ", ""), ("", ",sha-256=:", ""), (",sha-256=:", "a", "")
    ),
    "senders/target.py: _printable": worst("search", ("", "a", "")),
    "senders/target.py: __call__": worst("search", ("", "a", ""), ("", "a:/", "")),
    "sql.py: _REFUSAL": SERVER,
    "storage/bucket.py: _UNKEYED": worst("search", ("", "a", "")),
    "storage/bucket.py: _may_be": SERVER,
    "storage/objects.py: _translated": SERVER,
    "storage/objects.py: _translated 2": SERVER,
    "storage/objects.py: _translated 3": SERVER,
    "storage/objects.py: _code": SERVER,
    "storage/paths.py: _SIDECAR": worst("fullmatch", ("", ".json", "x"), ("", "~.", "")),
    "storage/paths.py: _NUMBER": worst("search", ("", "~1", ""), ("", "~", "")),
    "storage/paths.py: _STEP": worst("fullmatch", ("", "~new", "x")),
    "storage/paths.py: _HIDDEN_STEP": worst(
        "fullmatch", (".", ".json.new", "x"), (".", ".gone", "x"), (".", "~.json", "")
    ),
    "storage/paths.py: _FOLDER_DOT": worst("search", ("", ".mp3", "")),
    "storage/paths.py: _FOLDER_ENDING": worst("search", ("", "%2Emp3", "")),
    "storage/place.py: _unescaped": SYSTEM,
    "storage/sidecars.py: _ACCOUNT": worst("fullmatch", ("", "a", "")),
    "storage/versions.py: _without": OURS,
    "storage/versions.py: etags": OURS,
    "storage/versions.py: _find": OURS,
}
