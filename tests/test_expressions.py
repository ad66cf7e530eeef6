"""No regular expression that a stranger's text reaches is left unmeasured."""

from support.expressions import SEEN, Worst, expressions


def test_every_regular_expression_is_listed_with_the_worst_that_can_be_sent_to_it():
    """A new one: add it to `SEEN`, with texts for which it could take more than linear time."""
    assert {each.key for each in expressions()} == SEEN.keys()


def test_what_is_measured_can_be_compiled_and_used():
    for each in expressions():
        if isinstance(worst := SEEN[each.key], Worst):
            pattern = each.compiled()
            for before, repeated, after in worst.texts:
                text = before + repeated * 3 + after
                is_bytes = isinstance(pattern.pattern, bytes)
                getattr(pattern, worst.use)(text.encode() if is_bytes else text)
