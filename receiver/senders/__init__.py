"""What senders do beyond the PHP example: forms, metadata, digests, files handed over by nginx."""

from typing import TYPE_CHECKING

from flask import Flask

from ..parts import Parts
from . import forms
from .forms import FormBody
from .sent import SentBody
from .target import SentPath

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def open_body(environ: "WSGIEnvironment") -> SentBody | FormBody:
    """A request's body: what the request holds, or the recording in its form."""
    return in_form(SentBody(environ), environ)


def in_form(body: SentBody, environ: "WSGIEnvironment") -> SentBody | FormBody:
    """The body, or where it is a form, the recording in it."""
    boundary = forms.boundary(environ.get("CONTENT_TYPE", ""))
    return FormBody(body, boundary) if boundary else body


def init_app(app: Flask, parts: Parts, *, serving: bool) -> None:
    """Let requests come as they were sent, and in a server also as nginx hands them over."""
    forms.require_decoder()
    # Flask's own way to add middleware, which mypy takes for a method that is replaced.
    app.wsgi_app = SentPath(app.wsgi_app)  # type: ignore[method-assign]
    if serving and app.config["HANDOVER_DIR"]:
        from .handover import Handover

        handover = Handover(app.config["HANDOVER_DIR"], parts.storage.spool)
        parts.open_body = lambda environ: in_form(handover.body(environ), environ)
