"""A receiver checked from outside, as Kazoo and FreeSWITCH would use it."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import click

from .probe import CHUNKED, CUT, LARGE, LINE, PATH, RAW, SMALL, Failure, Site, Upload


def check_cut(site: Site) -> str:
    """A body that ends early must be refused, and leave nothing in the way of the whole one."""
    try:
        answer = site.send(Upload("cut.mp3", size=10 * SMALL, sent=5 * SMALL))
    except Failure:
        pass  # nginx closes the connection without a word, which is as good as a refusal
    else:
        if answer.status < 300:
            raise Failure(answer, CUT)
    advice = f"something is stored from the incomplete upload before: {CUT}"
    return Upload("cut.mp3", size=10 * SMALL, advice={200: advice})(site)


def check_secret(site: Site) -> str:
    """Credentials must be needed where the URL has some."""
    if not site.credentials:
        return "the URL has none, and may write: so may anybody whom KZR_ALLOW_FROM does not stop"
    answer = site.send(Upload("secret.mp3"), credentials=f"{site.credentials}-wrong")
    if answer.status != 401:
        raise Failure(answer, "set KZR_WRITERS" if answer.stored else answer.advice)
    return ""


def check_reading(site: Site) -> str:
    """What can be read must be what was sent; that it cannot be read at all is no failure."""
    answer = site.send(Upload("small.mp3", size=0), "GET")
    if answer.status != 200:
        return f"it is not allowed: {answer}"
    if answer.body != site.audio[:SMALL]:
        raise Failure("200 with other bytes", "does something in between answer or change it?")
    return ""


CHECKS: tuple[tuple[str, Callable[[Site], str]], ...] = (
    ("a small recording", Upload("small.mp3")),
    ("the same again, as a retry", Upload("small.mp3", outcome="identical")),
    ("a recording of 25 MB", Upload("large.mp3", size=LARGE)),
    ("a doubled dot", Upload("dots..mp3", "dots.mp3")),
    ("a Call-ID with @ and / (%2F)", Upload("a%2Fb%40c.mp3", "a%2Fb@c.mp3", advice={404: PATH})),
    ("a Call-ID with a percent sign (%252F)", Upload("a%252Fb.mp3", advice={404: PATH})),
    # A slash that was decoded on the way shows only here: it makes a folder.
    ("a / in a name of record_caller", Upload("a%2Fd.mp3", prefix="", advice={404: PATH})),
    ("raw UTF-8", Upload("ö.mp3", "%C3%B6.mp3", query="caller_id_name=Jörg", advice={400: RAW})),
    ("a chunked body", Upload("chunked.mp3", chunked=True, advice={400: CHUNKED})),
    ("Expect: 100-continue", Upload("expect.mp3", expect=True)),
    ("an upload that is cut off", check_cut),
    (
        "a request line of 16000 bytes",
        Upload("long.mp3", query="to=", line_bytes=16000, advice={400: LINE}),
    ),
    ("credentials", check_secret),
    ("reading back", check_reading),
)


def report(line: str) -> None:
    """Print one line, whatever a server put into it: a terminal would obey control codes."""
    click.echo(re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", line).rstrip())


def run_checks(site: Site) -> bool:
    """Print a line for each check; return whether all passed. Without the first, none can."""
    passed = True
    for what, check in CHECKS:
        try:
            note = check(site)
        except Failure as failure:
            report(f"FAIL {what}: {failure}")
            report(f"     {failure.advice}")
            passed = False
            if (what, check) == CHECKS[0]:
                report("     the other checks need this one first")
                break
        else:
            report(f"note {what}: {note}" if note else f"ok   {what}")
    return passed


def parse_url(url: str) -> Site:
    """Return the parts of a URL as Kazoo takes them: credentials exactly as they are written."""
    try:
        url.encode()
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as error:
        raise click.ClickException(f"the URL cannot be used: {error}") from None
    credentials, _, authority = parts.netloc.rpartition("@")
    is_tls = parts.scheme == "https"
    wrong = {
        "it begins with neither http:// nor https://": parts.scheme not in ("http", "https"),
        "it has no host": not host,
        "it holds a space": re.search(r"[\x00-\x20\x7f]", url),
        "it holds a ? or #, and the name of a recording must follow": "?" in url or "#" in url,
        "Kazoo takes only user:secret, with one colon": credentials and credentials.count(":") != 1,
    }
    for complaint, is_so in wrong.items():
        if is_so:
            raise click.ClickException(f"the URL cannot be used: {complaint}")
    path = parts.path.rstrip("/")
    return Site(host, port or (443 if is_tls else 80), is_tls, authority, path, credentials)


def run(url: str) -> bool:
    """Check the receiver at the URL, print what it did and left; return whether all passed."""
    site = parse_url(url)
    try:
        return run_checks(site)
    finally:  # also when it is interrupted
        if site.stored:
            folder = site.stored[0].rpartition("check-")[0]
            report("Its recordings stay in the storage; nothing can be deleted over HTTP.")
            report(f"In the storage's folder: rm -r {folder}check-{site.run}-*")
            report("Then kazoo-receiver reindex, where KZR_CATALOG is set.")
