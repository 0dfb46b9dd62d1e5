from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def site(request: HttpRequest) -> dict[str, object]:
    """What every template may use."""
    return {"inference_backend": settings.INFERENCE_BACKEND, "debug": settings.DEBUG}
