"""`/readyz`: whether this process may get requests."""

from __future__ import annotations

import os

from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.utils.translation import gettext as _

from common.api import error_body


def readyz(request: HttpRequest) -> JsonResponse:
    """200 where database and store are there, else 503. The engine starts with the first request and is not asked."""
    checks = {"database": database_answers(), "store": os.access(settings.VAR_DIR, os.W_OK | os.X_OK)}
    if all(checks.values()):
        return JsonResponse({"status": "ready", "checks": checks})
    body = error_body("not_ready", _("Something that the portal needs is away."), checks=checks)
    return JsonResponse(body, status=503, headers={"Retry-After": "5"})


def database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return cursor.fetchone() == (1,)
    except DatabaseError:
        return False
