"""One id for each request, from the socket to the engine's log and back in the answer's `X-Request-ID`.

A client may name it by the same header; else it is made here. Of a websocket each frame is a request of its own.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .middleware import Middleware

HEADER = "X-Request-ID"
CAME_IN = "loraportal.came_in"  # in an ASGI scope or message: time.monotonic() when its first byte was read
ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}")

request_id: ContextVar[str] = ContextVar("request_id", default="")
traceparent: ContextVar[str] = ContextVar("traceparent", default="")  # of W3C Trace Context, as the client sent it
began: ContextVar[float] = ContextVar("began", default=0.0)  # time.monotonic() when the request came in
_named: ContextVar[bool] = ContextVar("request_id_named", default=False)  # by the client


def begin(given: str = "", at: float | None = None) -> str:
    """The id of what begins: the one that the client gave, where it is one. `at`: when it came in, else now."""
    began.set(time.monotonic() if at is None else at)
    named = ACCEPTED.fullmatch(given) is not None
    _named.set(named)
    request_id.set(given if named else secrets.token_hex(12))
    return request_id.get()


def adopt(own: str) -> str:
    """Name the request in hand `own`, unless its client has named it; returns its id."""
    if not _named.get():
        request_id.set(own)
    return request_id.get()


class RequestIdMiddleware(Middleware):
    def before(self, request: HttpRequest) -> str:
        begun = begin(request.headers.get(HEADER, ""), getattr(request, "scope", {}).get(CAME_IN))
        traceparent.set(request.headers.get("traceparent", "")[:128])
        return begun

    def after(self, response: HttpResponseBase, seen: str) -> HttpResponseBase:
        response.headers.setdefault(HEADER, seen)  # a view that has adopted another id says so itself
        return response
