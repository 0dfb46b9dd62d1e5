"""Handlers of errors outside of a DRF view: JSON for programs, a page for people."""

from __future__ import annotations

import math
import sys

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from accounts.decorators import AdministratorsOnlyError
from common.api import ApiError, json_error, unforeseen

LONGEST_HOST = 100  # characters that are shown
API_PREFIXES = ("/api/", "/v1/", "/healthz", "/readyz")


def _answer(request: HttpRequest, error: ApiError, title: str) -> HttpResponse:
    if request.path.startswith(API_PREFIXES):
        response: HttpResponse = json_error(error)
    else:
        context = {"status": error.status, "title": title, "message": error.message}
        response = render(request, "error.html", context, status=error.status)
    if error.retry_after is not None:
        response["Retry-After"] = str(math.ceil(error.retry_after))
    return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        host = request.META.get("HTTP_HOST", "")[:LONGEST_HOST]
        message = _(
            "This portal does not accept requests for the host “%(host)s”. An administrator must add the "
            "name to ALLOWED_HOSTS and restart the portal."
        )
        return _answer(request, ApiError("host_not_allowed", message % {"host": host}, 400), _("Bad request"))
    return _answer(
        request, ApiError("bad_request", _("The server could not read this request."), 400), _("Bad request")
    )


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    administrators = isinstance(exception, AdministratorsOnlyError)
    message = (
        _("This requires an administrator account.") if administrators else _("This requires an operator account.")
    )
    return _answer(request, ApiError("permission_denied", message, 403), _("Not allowed"))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    message = _("The page was open for too long, or the request came from another site. Reload the page and try again.")
    return _answer(request, ApiError("csrf_failed", message, 403), _("Please try again"))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, ApiError("not_found", _("This page does not exist."), 404), _("Not found"))


def server_error(request: HttpRequest) -> HttpResponse:
    """Django calls this while it handles the exception."""
    error = unforeseen(sys.exception() or RuntimeError("no exception is handled"), request.path)
    response = _answer(request, error, _("Please try again") if error.status == 503 else _("Error"))
    response._has_been_logged = True  # type: ignore[attr-defined]  # by `unforeseen`: Django's own record is left out
    return response
