"""Why something of a run failed: a code and what its sentence names, so that each reads it in their language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.failures import Refused, render
from inference.errors import KINDS, sentence


def explained(code: str, detail: Mapping[str, Any]) -> str:
    """In the active language; "" for none."""
    if not code:
        return ""
    return sentence(code, detail) if code in KINDS else render(code, dict(detail))


def kept(error: BaseException) -> dict[str, Any]:
    """The fields `code` and `detail` of a row that tells of this error."""
    detail = error.details if isinstance(error, Refused) else getattr(error, "detail", {})
    code = str(getattr(error, "code", "")) or "internal_error"
    return {"code": code[:64], "detail": {name: _short(value) for name, value in dict(detail or {}).items()}}


def _short(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | bool) else str(value)[:500]
