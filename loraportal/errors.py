"""Handlers of errors outside of a DRF view: JSON for programs, a page for people."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from common.api import json_error

API_PREFIXES = ("/api/", "/v1/", "/healthz", "/readyz")


def _answer(request: HttpRequest, status: int, code: str, title: str, message: str) -> HttpResponse:
    if request.path.startswith(API_PREFIXES):
        return json_error(request, status, code, message)
    return render(request, "error.html", {"status": status, "title": title, "message": message}, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 400, "bad_request", _("Bad request"), _("The server could not read this request."))


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 403, "permission_denied", _("Not allowed"), _("This needs an operator's account."))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    message = _("The page was open for too long or came from elsewhere. Reload it and try again.")
    return _answer(request, 403, "csrf_failed", _("Please try again"), message)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 404, "not_found", _("Not found"), _("There is nothing at this address."))


def server_error(request: HttpRequest) -> HttpResponse:
    message = _("Something went wrong here; the server's log has the details.")
    return _answer(request, 500, "server_error", _("Error"), message)
