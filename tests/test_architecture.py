"""Who imports whom: downwards only, and no optional part another, as receiver/README.md has it."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paths import PROJECT
from support.python import run_with_only

RECEIVER = PROJECT / "receiver"
# From the ground up: a place imports from its own level and those above it in this list. Within a
# folder, its modules' order is their own, but there are no circles.
LEVELS = (
    ("errors", "formats", "memory", "numbers", "shown"),
    ("config", "guesses"),
    ("access", "parts"),
    ("answers", "core"),
    ("sql",),
    ("storage",),
    ("reading", "senders"),
    ("catalog",),
    ("monitoring", "page", "retention"),
    ("jobs",),
    ("check",),
    ("commands",),
    ("__init__", "gunicorn_worker"),
    ("serve",),
    ("shell",),
)
OPTIONAL = {"catalog", "page", "retention", "monitoring", "jobs", "check", "reading", "senders"}
MAY = {
    ("page", "catalog"),  # it shows what that has
    ("page", "reading"),  # it plays what that reads
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(RECEIVER.rglob("*.py")):
        name = ".".join(("receiver", *path.relative_to(RECEIVER).with_suffix("").parts))
        yield name.removesuffix(".__init__"), ast.parse(path.read_text())


def imports(name: str, tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The modules of ours that a module imports anywhere in it, under TYPE_CHECKING too."""
    package = name if any(other.startswith(f"{name}.") for other in known) else ""
    package = package or name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*(base if node.level else ()), *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in known else source
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def graph() -> dict[str, set[str]]:
    trees = dict(modules())
    known = set(trees)
    return {
        name: {each for each in imports(name, tree, known) if each in known} - {name}
        for name, tree in trees.items()
    }


def place(name: str) -> str:
    """The folder, or the module beside the folders, that a module is in."""
    return (name.split(".") + ["__init__"])[1]


GRAPH = graph()


def test_every_place_has_a_level():
    listed = [each for level in LEVELS for each in level]
    assert sorted(listed) == sorted({place(name) for name in GRAPH})


def test_imports_go_downwards_only():
    level = {each: number for number, names in enumerate(LEVELS) for each in names}
    upward = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if place(name) != place(other)
        and level[place(other)] >= level[place(name)]
        and name != "receiver.jobs.__main__"  # the worker's entry, as app.py is the server's
    ]
    assert upward == []


def test_no_module_imports_itself_by_way_of_others():
    circles = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circles.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for other in GRAPH[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())
    assert circles == []


def test_no_optional_part_imports_another():
    crossing = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if {place(name), place(other)} <= OPTIONAL
        and place(name) != place(other)
        and (place(name), place(other)) not in MAY
    ]
    assert crossing == []


def test_core_needs_only_errors_formats_and_parts():
    needed = {
        place(other) for name, others in GRAPH.items() if place(name) == "core" for other in others
    }
    assert needed - {"core"} == {"errors", "formats", "parts"}


def test_check_needs_nothing_of_ours():
    assert all(
        place(other) == "check"
        for name, others in GRAPH.items()
        if place(name) == "check"
        for other in others
    )


def test_only_gunicorn_loads_what_touches_its_insides():
    assert [name for name, others in GRAPH.items() if "receiver.gunicorn_worker" in others] == [
        "receiver.serve"
    ]
    importers = [name for name, others in GRAPH.items() if "receiver.serve" in others]
    assert importers == ["receiver.shell"]  # within the command that serves


@pytest.mark.parametrize("part", ["catalog", "page", "jobs", "check"])
def test_receiver_is_whole_without_a_part_that_is_not_configured(tmp_path: Path, part: str):
    shutil.copytree(RECEIVER, tmp_path / "receiver")
    shutil.rmtree(tmp_path / "receiver" / part)
    code = (
        "from receiver import create_app; app = create_app(); "
        "print(app.test_client().put('/kzr/call_recording_x.mp3', data=b'audio').status)"
    )
    assert run_with_only(tmp_path, code) == "201 CREATED\n"


@pytest.mark.parametrize("folder", [place for place in sorted(OPTIONAL) if place != "check"])
def test_each_part_says_what_it_is_for(folder):
    assert ast.get_docstring(ast.parse((RECEIVER / folder / "__init__.py").read_text()))
