"""On what somebody's access rests, as a value that outlives the request or connection that brought it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .models import ApiToken


@dataclass(frozen=True)
class Grant:
    """The account, and the token or the session."""

    user_id: int
    token_id: int | None = None
    session_key: str | None = None

    @classmethod
    def of_scope(cls, scope: dict[str, Any]) -> Grant:
        """Of a websocket behind `accounts.websocket.AuthMiddleware`."""
        token = scope.get("token")
        session = None if token else scope.get("session")
        return cls(scope["user"].pk, token.pk if token else None, session.session_key if session else None)

    @classmethod
    def of_request(cls, request: Any) -> Grant:
        """Of a DRF request."""
        token = request.auth if isinstance(request.auth, ApiToken) else None
        session = None if token else getattr(request, "session", None)
        return cls(request.user.pk, token.pk if token else None, session.session_key if session else None)
