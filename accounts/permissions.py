"""Roles as DRF permissions: the account's rights, narrowed by the scopes of the token where one was used."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from .models import ApiToken, Scope


def may(user: Any, token: ApiToken | Any | None, scope: str) -> bool:
    """Whether this user, through this token (None: a session), may do what `scope` stands for."""
    if not (user and user.is_authenticated and user.is_active):
        return False
    if token is not None and not token.has_scope(scope):
        return False
    return bool(user.is_staff) if scope == Scope.OPERATE else True


class IsOperator(BasePermission):
    message = _("This requires an operator account; a token also needs the scope “operate”.")

    def has_permission(self, request: Request, view: Any) -> bool:
        return may(request.user, request.auth, Scope.OPERATE)


class CanInfer(BasePermission):
    message = _("This requires a token with the scope “infer”.")

    def has_permission(self, request: Request, view: Any) -> bool:
        return may(request.user, request.auth, Scope.INFER)
