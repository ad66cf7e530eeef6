"""The lines of which the proof's table is made."""

import re

ROW = re.compile(r"\| .+ \| .+ \| (passed|FAILED) \|")
HEAD = "| tried | figures | result |\n|---|---|---|"


def tell(tried: str, figures: str, passed: bool) -> bool:
    """Print a row of the table; return `passed`."""
    print(f"| {tried} | {figures} | {'passed' if passed else 'FAILED'} |", flush=True)
    return passed
