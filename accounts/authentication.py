"""`Authorization: Bearer <token>` for the API."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from .models import ApiToken
from .tokens import find_usable

REALM = 'Bearer realm="LoRA Portal"'


def bearer_secret(header: bytes | str) -> str | None:
    """The secret of an Authorization header; None where it is not a Bearer one, "" where it is malformed."""
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    scheme, _space, value = text.strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    value = value.strip()
    return value if value and value.isascii() and " " not in value else ""


class TokenAuthentication(BaseAuthentication):
    """A bearer token decides alone: where one is given, good or bad, cookies are not looked at."""

    def authenticate(self, request: Request) -> tuple[Any, ApiToken] | None:
        secret = bearer_secret(request.META.get("HTTP_AUTHORIZATION", ""))
        if secret is None:
            return None
        token = find_usable(secret)
        if token is None:
            raise AuthenticationFailed(_("The API token is invalid, expired or revoked."), "invalid_token")
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return REALM
