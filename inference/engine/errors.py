"""Refusals of the engine: a stable code, a sentence, the parameter at fault, and numbers for a translated sentence."""

from __future__ import annotations

from typing import Any


class EngineError(Exception):
    """Ends one request (or one load) and nothing else.

    Codes: context_length_exceeded, queue_full, user_limit, out_of_memory, base_load_failed, base_unsupported,
    base_pinned, adapter_load_failed, adapter_incompatible, weights_nonfinite, no_effect, invalid_parameter,
    template_failed, shutting_down, duplicate_id, device_busy, internal_error.
    """

    def __init__(self, code: str, message: str, param: str | None = None, **detail: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.detail = detail
