"""Why something of a run failed: a code and what its sentence names, so that each reads it in their language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from adapters.failures import Refused, render
from common.numbers import grouped_values
from inference.errors import KINDS, sentence

JUDGE: dict[str, Promise] = {
    "judge_off": _("No judge model is configured. Choose a model of this portal, or have an operator set JUDGE_URL."),
    "judge_changed": _("The judge has changed since these comparisons began. Start a new head to head."),
    "judge_unavailable": _("The judge model cannot be reached or does not respond in time. Try again later."),
    "judge_denied": _(
        "The judge model's server rejected the request (HTTP %(status)s). An operator must check JUDGE_URL, "
        "JUDGE_MODEL and JUDGE_API_KEY_FILE."
    ),
    "judge_refused": _("The judge model's server rejected this question (HTTP %(status)s): %(reason)s"),
    "judge_answer_invalid": _("The judge model's server returned an invalid response."),
}


def explained(code: str, detail: Mapping[str, Any]) -> str:
    """In the active language; "" for none."""
    if not code:
        return ""
    if code in JUDGE:
        return str(JUDGE[code]) % grouped_values({"status": "–", "reason": "–", **detail})
    return sentence(code, detail) if code in KINDS else render(code, dict(detail))


def kept(error: BaseException) -> dict[str, Any]:
    """The fields `code` and `detail` of a row that tells of this error."""
    detail = error.details if isinstance(error, Refused) else getattr(error, "detail", {})
    code = str(getattr(error, "code", "")) or "internal_error"
    return {"code": code[:64], "detail": {name: _short(value) for name, value in dict(detail or {}).items()}}


def _short(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | bool) else str(value)[:500]
