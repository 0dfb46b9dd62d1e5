"""An exception that no view foresaw: what the client is told, and that the log tells it once."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import pytest
from django.db import OperationalError
from django.http import HttpRequest
from django.test import Client
from django.urls import path

FAULTS = {"fault": ValueError("nobody foresaw it"), "busy": OperationalError(1205, "Lock wait timeout exceeded")}


def breaks(request: HttpRequest, name: str) -> NoReturn:
    raise FAULTS[name]


urlpatterns = [path("api/breaks/<name>", breaks)]
handler500 = "loraportal.errors.server_error"


@pytest.mark.parametrize(
    ("name", "status", "code", "level"),
    [("fault", 500, "server_error", logging.ERROR), ("busy", 503, "database_busy", logging.WARNING)],
)
def test_an_exception_is_logged_once(
    name: str, status: int, code: str, level: int, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ROOT_URLCONF = __name__
    answer = Client(raise_request_exception=False).get(f"/api/breaks/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    (told,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert told.levelno == level and f"/api/breaks/{name}" in told.getMessage()
    assert (told.exc_info is not None) == (name == "fault")
