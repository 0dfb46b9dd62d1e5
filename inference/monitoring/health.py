"""`/readyz`: whether this process may get requests."""

from __future__ import annotations

import os

from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.utils.translation import gettext as _

from common.api import error_body


def readyz(request: HttpRequest) -> JsonResponse:
    """200 where database and store are there, else 503. The engine starts with the first request and is not asked.

    One damaged copy makes no portal unready: it is mended, or its adapter is active no more (`lifecycle/checking.py`).
    """
    checks = {"database": database_answers(), "store": store_is_there()}
    if all(checks.values()):
        return JsonResponse({"status": "ready", "checks": checks})
    body = error_body("not_ready", _("A service that the portal depends on is unavailable."), checks=checks)
    return JsonResponse(body, status=503, headers={"Retry-After": "5"})


def store_is_there() -> bool:
    """Whether copies can be read and made again. A folder that nobody has needed yet is made when it is."""
    if not os.access(settings.VAR_DIR, os.W_OK | os.X_OK):
        return False
    there = os.path.lexists(settings.STORE_DIR)
    return not there or (
        os.path.isdir(settings.STORE_DIR) and os.access(settings.STORE_DIR, os.R_OK | os.W_OK | os.X_OK)
    )


def database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return cursor.fetchone() == (1,)
    except DatabaseError:
        return False
