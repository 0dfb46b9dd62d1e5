"""Errors as OpenAI's clients read them: the portal's error object with OpenAI's `type` in it."""

from __future__ import annotations

from typing import Any

from rest_framework.response import Response

from common.answers import Answer, ErrorObject
from common.api import ApiError, error_body, exception_handler

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class OpenAIErrorObject(ErrorObject):
    type: str
    available: list[str] = []


class OpenAIError(Answer):
    error: OpenAIErrorObject


def type_of(status: int) -> str:
    return TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def openai_exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    response = exception_handler(exc, context)
    if response is not None and isinstance(response.data, dict) and "error" in response.data:
        response.data = OpenAIError.of(error={**response.data["error"], "type": type_of(response.status_code)})
    return response


def error_object(error: ApiError) -> dict[str, Any]:
    """What a stream that has already begun carries instead of an HTTP status."""
    told = error_body(error.code, error.message, error.param, **error.extra)["error"]
    return OpenAIError.of(error={**told, "type": type_of(error.status), "status": error.status})
