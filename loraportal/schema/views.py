"""`/api/schema` (OpenAPI 3) and `/api/docs` (its page, with everything on board)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import get_language, override
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularJSONAPIView


@lru_cache
def description(language: str) -> dict[str, Any]:
    """The API's description in this language: half a second of work, and the same as long as this process lives."""
    with override(language):
        made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return made


class KeptSchema(SchemaGenerator):
    """Gives what was made for the language; one that the portal does not have is answered in its own."""

    def get_schema(self, request: Any = None, public: bool = False) -> Any:
        asked = get_language()
        return description(asked if asked in dict(settings.LANGUAGES) else settings.LANGUAGE_CODE)


class SchemaView(SpectacularJSONAPIView):
    generator_class = KeptSchema


@require_safe
@ensure_csrf_cookie
def docs(request: HttpRequest) -> HttpResponse:
    return render(request, "api_docs.html")
