"""What goes wrong with a judge. The sentences stand in `evaluations/models/explaining.py`."""

from __future__ import annotations

from typing import Any

from common.api import ApiError
from evaluations.models.explaining import explained

STATUSES = {
    "judge_off": 409,
    "judge_changed": 409,
    "judge_denied": 422,
    "judge_refused": 400,  # this question alone
    "judge_unavailable": 503,
    "judge_answer_invalid": 503,
}


class JudgeError(ApiError):
    def __init__(self, code: str, param: str | None = None, retry_after: float | None = None, **detail: Any) -> None:
        self.detail = detail
        super().__init__(code, explained(code, detail), STATUSES[code], param, retry_after)
