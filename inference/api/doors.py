"""Views that ask a model: what they refuse before they do is counted."""

from __future__ import annotations

from typing import Any

from adrf.views import APIView
from django.urls import Resolver404, resolve
from rest_framework.request import Request
from rest_framework.response import Response

from inference.measuring import refusals


class Door(APIView):
    asker = 0  # id of the account, once it is known

    def perform_authentication(self, request: Request) -> None:
        super().perform_authentication(request)
        self.asker = request.user.pk or 0

    def handle_exception(self, exc: Exception) -> Response:
        response: Response = super().handle_exception(exc)
        told: Any = response.data
        refusals.count(exc, self.asker, told["error"]["code"])
        return response


def is_door(path: str) -> bool:
    """Whether a model is asked at this address."""
    try:
        view = resolve(path).func
    except Resolver404:
        return False
    return issubclass(getattr(view, "cls", object), Door)
