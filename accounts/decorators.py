"""Roles for pages."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


class AdministratorsOnlyError(PermissionDenied):
    """The page of an error says which role is missing."""


def operator_required(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let operators in, send visitors to sign in, refuse everybody else (403). For sync and async views."""

    if iscoroutinefunction(view):

        @wraps(view)
        async def checked_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if not (await request.auser()).is_staff:
                raise PermissionDenied
            return await view(request, *args, **kwargs)

        return login_required(checked_async)

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if not request.user.is_staff:
            raise PermissionDenied
        return view(request, *args, **kwargs)

    return login_required(checked)


def administrator_required(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let administrators in, send visitors to sign in, refuse everybody else (403)."""

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if not request.user.is_superuser:
            raise AdministratorsOnlyError
        return view(request, *args, **kwargs)

    return login_required(checked)
