"""`check`: a receiver asked from outside."""

import sys

import click


@click.command()
@click.argument("url")
def check(url: str) -> None:
    """Send recordings to a running receiver as Kazoo and FreeSWITCH do, and say what to change.

    URL is the "url" of a callflow, and may lead through nginx or Apache. The check needs none of
    the receiver's settings, reads nothing but answers, and tells which recordings it left behind.
    It exits with 1 if anything failed.

    \b
    Example:
      kazoo-receiver check http://kazoo:a-long-secret@10.0.0.5:8000/kzr
    """
    from ..check.checks import run  # no server needs it

    sys.exit(not run(url))
