"""What can go wrong between a request and its answer: each code with its HTTP status and a sentence.

The engine and the manager speak in codes with details; every door (JSON API, websocket, OpenAI-compatible API)
renders them here, in the reader's language.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from loraportal.api import ApiError


@dataclass(frozen=True)
class Kind:
    """HTTP `status`, `sentence` with placeholders from the event's details, seconds for `Retry-After`."""

    status: int
    sentence: str | Promise
    retry_after: float | None = None


KINDS: dict[str, Kind] = {
    # The request itself
    "context_length_exceeded": Kind(
        400,
        _("The prompt has %(tokens)s tokens; this model takes at most %(limit)s with the answer."),
    ),
    "prompt_too_long": Kind(400, _("The prompt is longer than %(limit)s characters.")),
    "empty_prompt": Kind(400, _("The prompt is empty.")),
    "invalid_messages": Kind(400, _("The model's chat template refuses these messages: %(reason)s")),
    "no_chat_template": Kind(400, _("This model has no chat template: send a prompt instead of messages.")),
    "invalid_parameter": Kind(400, _("The engine refuses the parameter %(param)s.")),
    "invalid_schema": Kind(400, _("The JSON schema cannot be used: %(reason)s")),
    "unsupported": Kind(400, _("The engine does not support %(param)s for this model.")),
    # Limits
    "queue_full": Kind(503, _("Too many requests are waiting. Try again in a moment."), 5),
    "user_limit": Kind(429, _("You have too many requests running. Wait for one of them to end."), 2),
    "too_many_generations": Kind(429, _("This connection has too many answers running."), 2),
    "slow_reader": Kind(503, _("The answer was not read fast enough and was stopped."), 1),
    # The adapter and the base
    "adapter_inactive": Kind(409, _("The adapter %(name)s is not active. Activate it first.")),
    "adapter_changed": Kind(409, _("The adapter was replaced or withdrawn while the request waited. Send it again.")),
    "adapter_load_failed": Kind(503, _("The adapter %(name)s could not be loaded."), 5),
    "adapter_incompatible": Kind(422, _("The adapter %(name)s does not fit its base model.")),
    "no_effect": Kind(422, _("The adapter %(name)s changes nothing in its base model's answers.")),
    "weights_nonfinite": Kind(422, _("The adapter %(name)s holds numbers that are not finite.")),
    "base_missing": Kind(409, _("The base model of %(name)s is not on this machine.")),
    "base_load_failed": Kind(503, _("The base model %(name)s could not be loaded."), 30),
    "base_unsupported": Kind(422, _("The base model %(name)s cannot be served: %(reason)s")),
    "base_busy": Kind(503, _("Another base model is in use. Try again in a moment."), 10),
    "numerical_failure": Kind(503, _("The model produced numbers that are not finite; the answer was stopped."), 1),
    # The engine
    "out_of_memory": Kind(503, _("There was not enough memory for this request."), 10),
    "memory": Kind(503, _("The model does not fit into the memory that is free."), 60),
    "engine_crashed": Kind(503, _("The engine stopped unexpectedly and is being restarted. Try again."), 2),
    "engine_unavailable": Kind(503, _("The engine could not be started. The log of the engine has the reason."), 30),
    "device_busy": Kind(503, _("Another process is using this graphics card for inference."), 30),
    "shutting_down": Kind(503, _("The server is shutting down."), 10),
    "engine_timeout": Kind(503, _("The engine did not answer in time."), 5),
    "engine_error": Kind(503, _("The engine failed at this request."), 1),
    # The connection (websocket)
    "malformed_json": Kind(400, _("This is not valid JSON.")),
    "malformed_frame": Kind(400, _("This frame is not one that the server knows.")),
    "duplicate_id": Kind(400, _("An answer with this id is still running on this connection.")),
    "unknown_id": Kind(404, _("No answer with this id is running on this connection.")),
    "unknown_target": Kind(404, _("There is no model named %(name)s.")),
    "revoked": Kind(401, _("Your access was withdrawn.")),
    "server_error": Kind(500, _("Something went wrong here; the server's log has the details.")),
}

# Where the engine names no parameter, the code does.
PARAMS = {"context_length_exceeded": "messages", "empty_prompt": "prompt", "invalid_messages": "messages"}


class EngineError(Exception):
    """A request that ended without an answer: `code` is a key of KINDS, `detail` fills the sentence."""

    def __init__(
        self, code: str, message: str = "", param: str | None = None, detail: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message
        self.param = param
        self.detail = dict(detail or {})

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> EngineError:
        return cls(event["code"], event.get("message", ""), event.get("param"), event.get("detail"))

    def event(self, request_id: str) -> dict[str, Any]:
        return {
            "type": "error",
            "id": request_id,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "detail": self.detail,
        }


def kind_of(code: str) -> Kind:
    return KINDS.get(code, KINDS["engine_error"])


def sentence(code: str, detail: Mapping[str, Any] | None = None, param: str | None = None) -> str:
    """The sentence of `code` in the active language; a missing placeholder reads as a dash."""
    values: defaultdict[str, Any] = defaultdict(lambda: "–")
    values.update({"param": param} if param else {})
    values.update(detail or {})
    return str(kind_of(code).sentence) % values


def api_error(error: EngineError, raw_prompt: bool = False) -> ApiError:
    """The HTTP answer of an engine error. `raw_prompt`: the request gave `prompt`, not `messages`."""
    kind = kind_of(error.code)
    code = error.code if error.code in KINDS else "engine_error"
    param = error.param or PARAMS.get(code)
    if param in ("messages", "prompt"):
        param = "prompt" if raw_prompt else "messages"
    retry_after = error.detail.get("retry_after", kind.retry_after) if kind.status in (429, 503) else None
    return ApiError(code, sentence(code, error.detail, param), kind.status, param, retry_after)
