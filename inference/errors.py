"""What can go wrong between a request and its answer: each code with its HTTP status and a sentence.

The engine speaks in codes with details; what a reader is told is made of them here alone, in the reader's language.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from common.api import ApiError
from common.numbers import grouped_values
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
        _("The prompt exceeds the model's context length."),
        _("The prompt has %(tokens)s tokens; the limit is %(context)s including the answer."),
    ),
    "prompt_too_long": ErrorKind(
        400, _("The prompt is too long."), _("The prompt is longer than %(limit)s characters.")
    ),
    "template_failed": ErrorKind(
        400,
        _("The chat template rejected these messages."),
        _("The chat template rejected these messages: %(reason)s"),
    ),
    "unknown_token": ErrorKind(
        400,
        _("The prompt contains a token that is not in the model's vocabulary."),
        _("The prompt contains the token %(token)s, which is not in the model's vocabulary. Remove it from the text."),
    ),
    "template_token": ErrorKind(
        400,
        _("The base model's chat template or tokenizer adds a token that is not in the model's vocabulary."),
        _(
            "The base model's chat template or tokenizer adds the token %(token)s, which is not in the "
            "model's vocabulary. The model's files do not match each other; an operator must replace them."
        ),
    ),
    "scoring_unsupported": ErrorKind(
        422,
        _("Token probabilities of a prompt cannot be computed with this base model."),
        _("Token probabilities of a prompt cannot be computed with this base model: %(reason)s."),
    ),
    "invalid_parameter": ErrorKind(
        400, _("The engine rejected a parameter."), _("The engine rejected the parameter %(param)s: %(reason)s")
    ),
    # Limits
    "queue_full": ErrorKind(503, _("Too many requests are waiting. Try again in a moment."), retry_after=5),
    "user_limit": ErrorKind(
        429, _("You have too many running requests. Wait for one of them to finish."), retry_after=2
    ),
    "too_many_generations": ErrorKind(
        429, _("Too many answers are being generated on this connection."), retry_after=2
    ),
    "slow_reader": ErrorKind(503, _("The answer was stopped because the client read it too slowly."), retry_after=1),
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
        _("The adapter does not match its base model."),
        _("The adapter %(name)s does not match its base model."),
    ),
    "store_damaged": ErrorKind(
        409,
        _("The stored copy of this adapter was damaged and could not be recreated. Contact an operator."),
        _("The stored copy of the adapter %(name)s was damaged and could not be recreated. Contact an operator."),
    ),
    "store_repairing": ErrorKind(
        503, _("The stored copy of this adapter is being recreated. Try again in a moment."), retry_after=5
    ),
    "no_effect": ErrorKind(
        422,
        _("The adapter has no effect on its base model's answers."),
        _("The adapter %(name)s has no effect on its base model's answers."),
    ),
    "weights_nonfinite": ErrorKind(
        422,
        _("The adapter contains non-finite values (NaN or infinity)."),
        _("The adapter %(name)s contains non-finite values (NaN or infinity)."),
    ),
    "blend_unsupported": ErrorKind(
        422,
        _("An adapter of this blend has parts that cannot be blended. Ask it without others."),
        _("The adapter %(name)s cannot be part of a blend: it has %(what)s, which no weight can scale."),
    ),
    "blend_not_adapter": ErrorKind(
        422,
        _("A blend consists of adapters."),
        _("A blend consists of adapters; %(name)s is a base model."),
    ),
    "blend_bases_differ": ErrorKind(
        422,
        _("The adapters of a blend must have the same base model."),
        _("The adapters of a blend must have the same base model; %(name)s has %(base)s, not %(other)s."),
    ),
    "blend_model_differs": ErrorKind(
        400,
        _("The model must be one of the blend's adapters or their base model."),
        _("%(param)s must be one of the blend's adapters or their base model: %(names)s."),
    ),
    "blend_rank_exceeded": ErrorKind(
        422,
        _("The ranks of these adapters are too large together. Use fewer adapters."),
        _(
            "The ranks of these adapters add up to %(rank)s; a blend may have %(limit)s. Use fewer adapters, or save "
            "the blend with a smaller rank and ask that."
        ),
    ),
    "base_missing": ErrorKind(
        409,
        _("The base model is not available on this server."),
        _("The base model of %(name)s is not available on this server or cannot be used."),
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
        _("The engine cannot run this base model exactly."),
        _("The engine cannot run this base model exactly: %(reason)s."),
    ),
    "base_pinned": ErrorKind(
        503,
        _("Another base model is set to stay loaded. Contact an operator."),
        _("The base model %(base)s is set to stay loaded. Contact an operator."),
        retry_after=60,
    ),
    # The engine
    "out_of_memory": ErrorKind(
        503,
        _("There is not enough memory for this request."),
        _(
            "%(base)s needs %(needed)s of memory in %(precision)s; %(free)s is free. "
            "Free memory or choose a smaller base model."
        ),
        retry_after=30,
    ),
    "precision_unavailable": ErrorKind(
        409,
        _("The base model cannot be measured in this precision here."),
        _("The base model cannot be measured in %(precision)s here: %(reason)s."),
    ),
    "precision_memory": ErrorKind(
        409,
        _("There is not enough free memory to measure the base model in this precision."),
        _("Measuring %(base)s in %(precision)s beside what is served needs %(needed)s of memory; %(free)s is free."),
    ),
    "precision_timeout": ErrorKind(503, _("Measuring in this precision took too long and was ended."), retry_after=60),
    "engine_crashed": ErrorKind(
        503,
        _("The engine stopped unexpectedly and is being restarted. Try again."),
        _("The engine stopped unexpectedly (%(reason)s) while loading %(base)s and is being restarted. Try again."),
        retry_after=2,
    ),
    "engine_unavailable": ErrorKind(
        503, _("The engine could not be started. See its log for the reason."), retry_after=30
    ),
    "nonfinite_logits": ErrorKind(
        503, _("The model produced non-finite values (NaN or infinity), so the answer was stopped."), retry_after=1
    ),
    "engine_timeout": ErrorKind(503, _("The engine did not respond in time."), retry_after=5),
    "engine_error": ErrorKind(503, _("The engine failed to process this request."), retry_after=1),
    "device_busy": ErrorKind(503, _("Another process is using this GPU for inference."), retry_after=30),
    # A fleet in the engine's place
    "fleet_unavailable": ErrorKind(
        503, _("The inference servers cannot be reached. Try again in a moment."), retry_after=10
    ),
    "fleet_denied": ErrorKind(
        503, _("The inference servers rejected this portal's API key. Contact an operator."), retry_after=60
    ),
    "fleet_interrupted": ErrorKind(503, _("The answer was interrupted. Ask again."), retry_after=1),
    "fleet_answer_invalid": ErrorKind(
        503,
        _("The inference servers returned an invalid response."),
        _("The inference servers returned an invalid response: %(reason)s."),
        retry_after=1,
    ),
    "fleet_cannot": ErrorKind(
        409,
        _("The inference servers do not support this operation."),
        _("The inference servers do not support this operation: %(what)s."),
    ),
    "shutting_down": ErrorKind(503, _("The server is shutting down."), retry_after=10),
    "internal_error": ErrorKind(500, _("An internal error occurred. See the server log for details.")),
    # The connection (websocket)
    "malformed_frame": ErrorKind(400, _("The server does not recognise this message.")),
    "duplicate_id": ErrorKind(400, _("An answer with this ID is still being generated on this connection.")),
    "unknown_target": ErrorKind(404, _("Model not found."), _("There is no model named %(name)s.")),
    "revoked": ErrorKind(401, _("Your access has been revoked.")),
}

# `out_of_memory` of a base that would fit in another precision.
FITS_OTHERWISE = _(
    "%(base)s needs %(needed)s of memory in %(precision)s; %(free)s is free. It would fit with %(fits)s."
)

# Details in the words of whoever found them, by `gettext_noop` where they are ours; others stay as they are.
TRANSLATED = ("reason", "what")

# Where the engine names no parameter, the code does.
PARAMS = {"context_length_exceeded": "messages", "prompt_too_long": "messages", "template_failed": "messages"}


def sentence(code: str, detail: Mapping[str, Any] | None = None, param: str | None = None) -> str:
    """The sentence of `code` in the active language, with the details where all of them are there."""
    kind = KINDS.get(code, KINDS["engine_error"])
    values = grouped_values({"param": param, **(detail or {})})
    for name in TRANSLATED:
        if isinstance(said := values.get(name), str) and said:
            values[name] = gettext(said)
    detailed = kind.detailed
    if isinstance(fits := values.get("fits"), list) and fits:
        values["fits"] = ", ".join(map(str, fits))
        detailed = FITS_OTHERWISE if code == "out_of_memory" else detailed
    if detailed is not None:
        with suppress(KeyError):
            return str(detailed) % values
    return str(kind.sentence)


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
