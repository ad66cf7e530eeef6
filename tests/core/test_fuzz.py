"""A little of what tests/proof/fuzz.py and fuzz_parsers.py do at length."""

import sys
from contextlib import ExitStack

import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("urllib3")

from support.needs import need
from support.paths import TESTS

sys.path.append(str(TESTS / "proof"))

import fuzz
import fuzz_parsers

CORPUS = sorted(fuzz_parsers.CORPUS.glob("*/*"))


@pytest.mark.parametrize(
    ("name", "examples"), [("gunicorn", 600), ("nginx", 200), ("handover", 200)]
)
def test_made_up_requests_break_no_promise(tmp_path, name, examples):
    if name != "gunicorn":
        need("nginx")
    with ExitStack() as stack:
        server = fuzz.start(name, tmp_path, stack)
        seen = fuzz.play(server, examples, "the same each time")
        assert seen.failures == []
        assert seen.requests == examples
        assert fuzz.wrong_files(server, seen) == []
        assert fuzz.wrong_lines(server, seen) == (seen.answers, [])


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_inputs_that_once_mattered_mislead_no_parser(path):
    fuzz_parsers.CHECKS[path.parent.name](path.read_bytes())


def test_every_kind_of_input_is_tried():
    assert {path.parent.name for path in CORPUS} == set(fuzz_parsers.CHECKS)
