"""What holds for every answer: headers, compression."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import markcoroutinefunction, sync_to_async
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware

SOON_COMPRESSED = 4096  # bytes that are compressed while the event loop waits
# Nothing inline, nothing from elsewhere. `data:` images serve the icons that CSS carries.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Middleware:
    """Serves sync and async views alike: `before` sees the request, `after` the answer and what `before` returned."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        seen = self.before(request)
        if self.is_async:
            return self._answer(request, seen)
        return self.after(self.get_response(request), seen)

    async def _answer(self, request: HttpRequest, seen: Any) -> HttpResponseBase:
        response: HttpResponseBase = await self.get_response(request)  # type: ignore[misc]
        return self.after(response, seen)

    def before(self, request: HttpRequest) -> Any:
        return None

    def after(self, response: HttpResponseBase, seen: Any) -> HttpResponseBase:
        return response


class ContentSecurityPolicyMiddleware(Middleware):
    def after(self, response: HttpResponseBase, seen: Any) -> HttpResponseBase:
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response


class Inline:
    """Goes before a class of Django's that is built on `MiddlewareMixin`: see `inline.py`."""

    get_response: Any

    def blocks(self, request: Any, response: Any) -> bool:
        """Whether `process_response` may take long this time."""
        return False

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:  # Django's name
        me: Any = self
        response: Any = me.process_request(request) if hasattr(me, "process_request") else None
        if response is None:
            response = await self.get_response(request)
        if not hasattr(me, "process_response"):
            return response  # type: ignore[no-any-return]
        if self.blocks(request, response):
            return await sync_to_async(me.process_response, thread_sensitive=True)(request, response)  # type: ignore[no-any-return]
        return me.process_response(request, response)  # type: ignore[no-any-return]


class CompressionMiddleware(Inline, GZipMiddleware):
    """Gzip for whole answers. Streams go out as they are, each piece at once.

    Lengths tell nothing of a page's secrets: Django pads each compressed answer by a random number of bytes, and the
    CSRF token is masked anew each time.
    """

    def blocks(self, request: HttpRequest, response: Any) -> bool:
        return not response.streaming and len(response.content) > SOON_COMPRESSED

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        return response if response.streaming else super().process_response(request, response)
