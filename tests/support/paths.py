"""Where the project is, and what Kazoo and curl were seen to send."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
PROJECT = TESTS.parent
WIRE = TESTS / "data" / "wire"
READ_BACK = PROJECT / "tests" / "data" / "wire-readback"
