"""Who is at the other end of a websocket: same-site origin, then a bearer token or the session.

A connection that fails is closed before it is accepted, which the client sees as HTTP 403.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from channels.auth import get_user
from channels.db import database_sync_to_async
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.utils.http import is_same_domain
from django.utils.translation import get_supported_language_variant
from django.utils.translation.trans_real import parse_accept_lang_header

from .authentication import bearer_secret
from .tokens import find_usable

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
DEFAULT_PORTS = {"http": 80, "https": 443}


def headers_named(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope.get("headers", []) if key == name]


def request_scheme(scope: Scope) -> str:
    """http or https as the browser sees it; a proxy's word counts only where HTTPS is set."""
    secure = scope.get("scheme") in {"wss", "https"}
    if settings.HTTPS and headers_named(scope, b"x-forwarded-proto") == ["https"]:
        secure = True
    return "https" if secure else "http"


def origin_parts(origin: str) -> tuple[str, str, int] | None:
    """(scheme, host, port), or None for `null` and whatever else is no web origin."""
    try:
        parts = urlsplit(origin.strip().lower())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port or DEFAULT_PORTS[parts.scheme]


def trusted(origin: tuple[str, str, int]) -> bool:
    for entry in settings.CSRF_TRUSTED_ORIGINS:
        parts = origin_parts(entry.replace("://*.", "://."))
        if parts and (parts[0], parts[2]) == (origin[0], origin[2]) and is_same_domain(origin[1], parts[1]):
            return True
    return False


def from_here(scope: Scope) -> bool:
    """Host is ours; Origin, where there is one (browsers always send it), is this very site or trusted."""
    hosts = headers_named(scope, b"host")
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = [".localhost", "127.0.0.1", "[::1]"]
    if len(hosts) != 1 or not validate_host(split_domain_port(hosts[0])[0], allowed):
        return False
    origins = headers_named(scope, b"origin")
    if not origins:
        return True
    origin = origin_parts(origins[0]) if len(origins) == 1 else None
    if origin is None:
        return False
    return origin == origin_parts(f"{request_scheme(scope)}://{hosts[0]}") or trusted(origin)


def reader_language(scope: Scope) -> str:
    """The language that the same browser's pages have: cookie, then Accept-Language, then the site's."""
    offered = [scope.get("cookies", {}).get(settings.LANGUAGE_COOKIE_NAME, "")]
    for header in headers_named(scope, b"accept-language"):
        offered += [code for code, _q in parse_accept_lang_header(header.lower())]
    for code in offered:
        try:
            return get_supported_language_variant(code)
        except LookupError:
            continue
    return str(settings.LANGUAGE_CODE)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Close before accept. Also the application for websocket addresses that do not exist."""
    await receive()
    await send({"type": "websocket.close"})


class AuthMiddleware:
    """Sets `scope["user"]`, `scope["token"]` (ApiToken, or None for a session) and `scope["language"]`.

    `refused` is called with the error's code for each connection that is not let in.
    """

    def __init__(self, app: App, refused: Callable[[str], None] = lambda code: None) -> None:
        self.app = app
        self.refused = refused
        self.by_session = CookieMiddleware(SessionMiddleware(self.session_user))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not from_here(scope):
            logger.warning("websocket refused: foreign origin %s", headers_named(scope, b"origin"))
            self.refused("permission_denied")
            return await refuse(scope, receive, send)
        given = headers_named(scope, b"authorization")
        secret = bearer_secret(given[0]) if given else None
        if secret is None:
            await self.by_session(scope, receive, send)
            return None
        token = await database_sync_to_async(find_usable)(secret) if len(given) == 1 else None
        if token is None:
            self.refused("invalid_token")
            return await refuse(scope, receive, send)
        user: Any = token.user
        return await self.app(dict(scope, user=user, token=token, language=reader_language(scope)), receive, send)

    async def session_user(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = await get_user(scope)
        if not (user.is_authenticated and user.is_active):
            self.refused("not_authenticated")
            return await refuse(scope, receive, send)
        return await self.app(dict(scope, user=user, token=None, language=reader_language(scope)), receive, send)
