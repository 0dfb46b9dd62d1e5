"""Refusals of the engine: a stable code, a sentence, the parameter at fault, and numbers for a translated sentence."""

from __future__ import annotations

from typing import Any


class EngineError(Exception):
    """Ends one request (or one load) and nothing else.

    Codes: context_length_exceeded, queue_full, user_limit, out_of_memory, base_load_failed, base_unsupported,
    base_pinned, adapter_load_failed, adapter_incompatible, weights_nonfinite, no_effect, invalid_parameter,
    template_failed, scoring_unsupported, unknown_token, template_token, shutting_down, duplicate_id, device_busy,
    internal_error, store_damaged, base_changed, blend_unsupported, blend_rank_exceeded.
    """

    def __init__(self, code: str, message: str, param: str | None = None, **detail: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.detail = detail


class UnforeseenError(EngineError):
    """An exception that no code here expects, as the error of what it ended; `__cause__` is the exception itself."""
