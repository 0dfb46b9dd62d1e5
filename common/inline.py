"""Django's middleware without threads: what each does takes microseconds, and is done on the event loop.

Under ASGI Django gives every step of these classes to a thread and waits for it, which makes sixteen switches there and
back for each request. While many answers are streamed each of them waits for the interpreter and for the loop's next
turn: together they took longer than the request itself. What may wait for the database still goes to a thread.
"""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import middleware as auth
from django.contrib.messages import middleware as messages
from django.contrib.sessions import middleware as sessions
from django.http import HttpRequest
from django.middleware import clickjacking, common, csrf, locale, security

from .middleware import Inline

READING = ("GET", "HEAD", "OPTIONS", "TRACE")


class SecurityMiddleware(Inline, security.SecurityMiddleware):
    pass


class SessionMiddleware(Inline, sessions.SessionMiddleware):
    def blocks(self, request: Any, response: Any) -> bool:
        return bool(request.session.modified)  # it is saved


class LocaleMiddleware(Inline, locale.LocaleMiddleware):
    pass


class CommonMiddleware(Inline, common.CommonMiddleware):
    pass


class CsrfViewMiddleware(Inline, csrf.CsrfViewMiddleware):
    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if self.async_mode:
            vars(self)["process_view"] = self.aprocess_view  # Django looks at what it is, and awaits it

    async def aprocess_view(self, request: HttpRequest, callback: Any, args: Any, kwargs: Any) -> Any:
        reads_body = request.method not in READING and not getattr(callback, "csrf_exempt", False)
        check = super().process_view
        if reads_body:
            return await sync_to_async(check, thread_sensitive=True)(request, callback, args, kwargs)
        return check(request, callback, args, kwargs)


class AuthenticationMiddleware(Inline, auth.AuthenticationMiddleware):
    pass


class MessageMiddleware(Inline, messages.MessageMiddleware):
    def blocks(self, request: Any, response: Any) -> bool:
        kept = getattr(request, "_messages", None)
        return kept is not None and (kept.used or kept.added_new)  # what is kept may be in the session


class XFrameOptionsMiddleware(Inline, clickjacking.XFrameOptionsMiddleware):
    pass
