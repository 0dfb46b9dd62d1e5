"""What can go wrong between a request and its answer: each code with its HTTP status and a sentence.

The engine speaks in codes with details; what a reader is told is made of them here alone, in the reader's language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from common.api import ApiError
from inference.engine.protocol import Failed


@dataclass(frozen=True)
class ErrorKind:
    """HTTP `status`, a `sentence`, and a `detailed` one that is used where the event has all that it names."""

    status: int
    sentence: str | Promise
    detailed: str | Promise | None = None
    retry_after: float | None = None  # seconds


KINDS: dict[str, ErrorKind] = {
    # The request itself
    "context_length_exceeded": ErrorKind(
        400,
        _("The prompt is longer than this model takes."),
        _("The prompt has %(tokens)s tokens; %(context)s with the answer are the most this model takes."),
    ),
    "prompt_too_long": ErrorKind(
        400, _("The prompt is too long."), _("The prompt is longer than %(limit)s characters.")
    ),
    "template_failed": ErrorKind(
        400,
        _("The base model's chat template refuses these messages."),
        _("The base model's chat template refuses these messages: %(reason)s"),
    ),
    "unknown_token": ErrorKind(
        400,
        _("The prompt holds a token that this model does not have."),
        _("The prompt holds the token %(token)s, which this model does not have. Remove it from the text."),
    ),
    "template_token": ErrorKind(
        400,
        _("The base model's chat template or tokenizer adds a token that the model does not have."),
        _(
            "The base model's chat template or tokenizer adds the token %(token)s, which the model does not have. "
            "Its files do not belong together; an operator has to replace them."
        ),
    ),
    "invalid_parameter": ErrorKind(
        400, _("The engine refuses a parameter."), _("The engine refuses the parameter %(param)s: %(reason)s")
    ),
    # Limits
    "queue_full": ErrorKind(503, _("Too many requests are waiting. Try again in a moment."), retry_after=5),
    "user_limit": ErrorKind(429, _("You have too many requests running. Wait for one of them to end."), retry_after=2),
    "too_many_generations": ErrorKind(429, _("This connection has too many answers running."), retry_after=2),
    "slow_reader": ErrorKind(503, _("The answer was not read fast enough and was stopped."), retry_after=1),
    # The adapter and the base
    "adapter_inactive": ErrorKind(
        409,
        _("This adapter is not active. Activate it first."),
        _("The adapter %(name)s is not active. Activate it first."),
    ),
    "adapter_load_failed": ErrorKind(
        503,
        _("The adapter could not be loaded."),
        _("The adapter %(name)s could not be loaded."),
        retry_after=5,
    ),
    "adapter_incompatible": ErrorKind(
        422,
        _("The adapter does not fit its base model."),
        _("The adapter %(name)s does not fit its base model."),
    ),
    "store_damaged": ErrorKind(
        409,
        _("The stored copy of this adapter was damaged and could not be made again. Ask an operator."),
        _("The stored copy of the adapter %(name)s was damaged and could not be made again. Ask an operator."),
    ),
    "store_repairing": ErrorKind(
        503, _("The stored copy of this adapter is being made again. Try again in a moment."), retry_after=5
    ),
    "no_effect": ErrorKind(
        422,
        _("The adapter changes nothing in its base model's answers."),
        _("The adapter %(name)s changes nothing in its base model's answers."),
    ),
    "weights_nonfinite": ErrorKind(
        422,
        _("The adapter holds numbers that are not finite."),
        _("The adapter %(name)s holds numbers that are not finite."),
    ),
    "base_missing": ErrorKind(
        409,
        _("The base model is not on this machine."),
        _("The base model of %(name)s is not on this machine, or cannot be used."),
    ),
    "base_load_failed": ErrorKind(
        503,
        _("The base model could not be loaded."),
        _("The base model could not be loaded: %(reason)s"),
        retry_after=30,
    ),
    "base_changed": ErrorKind(
        503,
        _("The base model's files have changed. Try again."),
        _("The files of the base model %(base)s have changed. Try again."),
        retry_after=2,
    ),
    "base_unsupported": ErrorKind(
        422,
        _("This base model cannot be served exactly."),
        _("This base model cannot be served exactly: %(reason)s."),
    ),
    "base_pinned": ErrorKind(
        503,
        _("Another base model is kept loaded. Ask an operator."),
        _("The base model %(base)s is kept loaded. Ask an operator."),
        retry_after=60,
    ),
    # The engine
    "out_of_memory": ErrorKind(
        503,
        _("There was not enough memory for this request."),
        _("%(base)s needs %(needed)s in %(precision)s, %(free)s are free. %(remedy)s"),
        retry_after=30,
    ),
    "engine_crashed": ErrorKind(
        503,
        _("The engine stopped unexpectedly and is being restarted. Try again."),
        _("The engine stopped unexpectedly (%(reason)s) while it loaded %(base)s, and is being restarted. Try again."),
        retry_after=2,
    ),
    "engine_unavailable": ErrorKind(503, _("The engine could not be started; its log has the reason."), retry_after=30),
    "nonfinite_logits": ErrorKind(503, _("The model's output was not finite; the answer was stopped."), retry_after=1),
    "engine_timeout": ErrorKind(503, _("The engine did not answer in time."), retry_after=5),
    "engine_error": ErrorKind(503, _("The engine failed at this request."), retry_after=1),
    "device_busy": ErrorKind(503, _("Another process is using this graphics card for inference."), retry_after=30),
    "shutting_down": ErrorKind(503, _("The server is shutting down."), retry_after=10),
    "internal_error": ErrorKind(500, _("Something went wrong here; the server's log has the details.")),
    # The connection (websocket)
    "malformed_frame": ErrorKind(400, _("This frame is not one that the server knows.")),
    "duplicate_id": ErrorKind(400, _("An answer with this id is still running on this connection.")),
    "unknown_target": ErrorKind(404, _("There is no such model."), _("There is no model named %(name)s.")),
    "revoked": ErrorKind(401, _("Your access was withdrawn.")),
    "server_error": ErrorKind(500, _("Something went wrong here; the server's log has the details.")),
}

# Where the engine names no parameter, the code does.
PARAMS = {"context_length_exceeded": "messages", "prompt_too_long": "messages", "template_failed": "messages"}


def sentence(code: str, detail: Mapping[str, Any] | None = None, param: str | None = None) -> str:
    """The sentence of `code` in the active language, with the details where all of them are there."""
    kind = KINDS.get(code, KINDS["engine_error"])
    values = {"param": param, **(detail or {})}
    if isinstance(values.get("fits"), list):
        values["remedy"] = memory_remedy(values["fits"])
    if kind.detailed is not None:
        try:
            return str(kind.detailed) % values
        except KeyError:
            pass
    return str(kind.sentence)


def memory_remedy(precisions: list[Any]) -> str:
    if not precisions:
        return gettext("Free memory or choose a smaller base model.")
    return gettext("It would fit with %(precisions)s.") % {"precisions": ", ".join(map(str, precisions))}


class InferenceError(ApiError):
    """A request that ended without an answer: `code` is a key of KINDS, `detail` fills the sentence.

    An ApiError like any other, so every way in answers it as it is; its sentence is in the language that is active
    where it is made. A code that is not in KINDS is the engine's fault.
    """

    def __init__(self, code: str, param: str | None = None, detail: Mapping[str, Any] | None = None) -> None:
        code = code if code in KINDS else "engine_error"
        self.detail = dict(detail or {})
        kind = KINDS[code]
        param = param or PARAMS.get(code)
        retry_after = self.detail.get("retry_after", kind.retry_after) if kind.status in (429, 503) else None
        super().__init__(code, sentence(code, self.detail, param), kind.status, param, retry_after)

    @classmethod
    def from_event(cls, event: Failed) -> InferenceError:
        return cls(event["code"], event.get("param"), event.get("detail"))


def api_error(error: InferenceError, raw_prompt: bool = False, name: str = "") -> InferenceError:
    """The error as whoever asked knows the matter.

    `raw_prompt`: the request gave `prompt`, not `messages`. `name`: of the adapter, where the engine names none.
    """
    param = error.param
    if param in ("messages", "prompt"):
        param = "prompt" if raw_prompt else "messages"
    return InferenceError(error.code, param, {"name": name, **error.detail} if name else error.detail)
