"""The one error shape of every HTTP answer, and the pagination of lists.

`{"error": {"code": "...", "message": "...", "param": null}}` with the matching status; never a traceback or a path.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, JsonResponse
from django.utils.translation import gettext as _
from rest_framework import exceptions
from rest_framework.pagination import PageNumberPagination
from rest_framework.response import Response

from .answers import Error
from .database import is_busy

logger = logging.getLogger(__name__)

RETRY_AFTER = 2.0  # seconds until a busy database is asked again


class ApiError(Exception):
    """A refusal with its place in the contract.

    `code` is stable and for programs, `message` is a sentence for people, `param` names the request field at fault,
    `retry_after` (seconds) goes into the header of 429 and 503, `extra` joins the error object, `headers` those of
    the answer.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int = 400,
        param: str | None = None,
        retry_after: float | None = None,
        extra: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = sendable(message)
        self.status = status
        self.param = None if param is None else sendable(param)
        self.retry_after = retry_after
        self.extra = extra or {}
        self.headers = headers or {}


def sendable(text: str) -> str:
    """A refusal repeats what the client sent; half of a surrogate pair, which JSON may name, is no character."""
    return text.encode("utf-8", "replace").decode()


def error_body(code: str, message: str, param: str | None = None, **extra: Any) -> dict[str, Any]:
    return Error.of(error={"code": code, "message": message, "param": param, **extra})


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Every exception of a DRF view as the one error shape."""
    headers: dict[str, str] = {}
    if isinstance(exc, ApiError):
        headers.update(exc.headers)
        if exc.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(exc.retry_after)))
        logger.info("refused: %s %s %s", exc.status, exc.code, exc.param or "")
        body = error_body(exc.code, exc.message, exc.param, **exc.extra)
        return Response(body, status=exc.status, headers=headers)
    if isinstance(exc, Http404):
        return Response(error_body("not_found", _("The requested object was not found.")), status=404)
    if isinstance(exc, PermissionDenied):
        exc = exceptions.PermissionDenied()
    if isinstance(exc, exceptions.ValidationError):
        param, message, code = first_problem(exc.get_full_details())
        return Response(error_body(code, message, param), status=400)
    if isinstance(exc, exceptions.APIException):
        if getattr(exc, "auth_header", None):
            headers["WWW-Authenticate"] = exc.auth_header  # type: ignore[attr-defined]
        if getattr(exc, "wait", None):
            headers["Retry-After"] = str(math.ceil(exc.wait))  # type: ignore[attr-defined]
        code = str(getattr(exc.detail, "code", exc.default_code))
        if isinstance(exc, exceptions.ParseError):
            code = "malformed_json"
        return Response(error_body(code, str(exc.detail)), status=exc.status_code, headers=headers)
    return exception_handler(unforeseen(exc, context.get("view").__class__.__name__), context)


def unforeseen(error: BaseException, where: str) -> ApiError:
    """What the client is told of an error that nobody caught, its cause, which the log has: see `code_of`."""
    code = code_of(error)
    if code == "database_busy":
        logger.warning("the database is busy or away (%s): %s", where, error)
        message = _("The database is busy or unavailable. Try again in a moment.")
        told = ApiError(code, message, 503, retry_after=RETRY_AFTER)
    else:
        logger.error("unhandled error in %s", where, exc_info=error)
        told = ApiError(code, _("An internal error occurred. See the server log for details."), 500)
    told.__cause__ = error
    return told


def code_of(error: BaseException) -> str:
    """Of an error that nobody caught: `database_busy` or `server_error`."""
    return "database_busy" if is_busy(error) else "server_error"


def first_problem(details: Any, path: str = "") -> tuple[str | None, str, str]:
    """The first field at fault of DRF's nested details: (dotted path or None, sentence, code)."""
    if isinstance(details, dict) and "message" in details and "code" in details:
        return path or None, str(details["message"]), str(details["code"])
    if isinstance(details, dict):
        for key, value in details.items():
            if value:
                deeper = path if key == "non_field_errors" else f"{path}.{key}" if path else str(key)
                return first_problem(value, deeper)
    if isinstance(details, list):
        for index, value in enumerate(details):
            if value:
                nested = isinstance(value, dict) and not ("message" in value and "code" in value)
                return first_problem(value, f"{path}.{index}" if nested else path)
    return path or None, _("Invalid input."), "invalid"


class Pagination(PageNumberPagination):
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200


def json_error(error: ApiError) -> JsonResponse:
    return JsonResponse(error_body(error.code, error.message, error.param), status=error.status)
