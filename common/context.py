from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def site(request: HttpRequest) -> dict[str, object]:
    """What every template may use."""
    theme = request.COOKIES.get("theme", "")
    return {
        "inference_backend": settings.INFERENCE_BACKEND,
        "debug": settings.DEBUG,
        "csrf_cookie": settings.CSRF_COOKIE_NAME,
        "theme": theme if theme in ("light", "dark") else "",  # "": what the reader's system prefers
    }
