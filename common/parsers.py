"""JSON bodies of programs: bounded, strict, never a 500."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from .api import ApiError
from .numbers import grouped


def no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def loads(text: str | bytes) -> Any:
    """Strict JSON (no NaN, no Infinity). Raises ValueError whatever is wrong with it, depth included."""
    try:
        return json.loads(text, parse_constant=no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class BoundedJSONParser(BaseParser):
    """JSON of at most DATA_UPLOAD_MAX_MEMORY_SIZE bytes (413 beyond); 400 for what is not JSON."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body = stream.read(limit + 1)
        if len(body) > limit:
            message = _("The request body is larger than %(limit)s bytes.") % {"limit": grouped(limit)}
            raise ApiError("body_too_large", message, 413)
        try:
            return loads(body)
        except ValueError:
            raise ParseError(_("The request body is not valid JSON.")) from None
