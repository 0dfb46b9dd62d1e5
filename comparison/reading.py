"""Strict reading of a vote that a client sends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from common.api import ApiError
from inference import params as reading
from inference.api.ws.frames import MAX_TARGETS
from inference.engine.protocol import Params

from .models import Verdict

DIGEST = re.compile(r"[0-9a-f]{64}")
FIELDS = {"prompt", "system", "params", "blind", "verdict", "candidates"}
CANDIDATE_FIELDS = {"model", "name", "digest", "text", "chosen"}


@dataclass(frozen=True)
class GivenCandidate:
    model: str
    name: str
    digest: str
    text: str
    chosen: bool


@dataclass(frozen=True)
class GivenVote:
    """A vote that was read and found good."""

    prompt: str
    system: str
    params: Params
    blind: bool
    verdict: str
    candidates: tuple[GivenCandidate, ...]


def vote(data: Any) -> GivenVote:
    """Raises ApiError 400."""
    _known(data, FIELDS, "")
    limit = settings.MAX_PROMPT_CHARS
    verdict = data.get("verdict")
    if verdict not in Verdict.values:
        message = _("%(param)s must be one of %(choices)s.")
        raise reading.refuse("verdict", "invalid_choice", message, choices=", ".join(Verdict.values))
    given = GivenVote(
        prompt=reading.prompt(data.get("prompt")),
        system=reading.text(data.get("system") or "", "system", limit),
        params=reading.sampling(data.get("params") or {}, "params."),
        blind=reading.boolean(data.get("blind", False), "blind"),
        verdict=verdict,
        candidates=_candidates(data.get("candidates")),
    )
    chosen = sum(candidate.chosen for candidate in given.candidates)
    if chosen != (verdict == Verdict.BEST):
        message = _("%(param)s: exactly one is chosen where the verdict is best, else none.")
        raise reading.refuse("candidates", "conflict", message)
    return given


def _candidates(value: Any) -> tuple[GivenCandidate, ...]:
    if not isinstance(value, list):
        raise reading.refuse("candidates", "invalid_type", _("%(param)s must be a list of answers."))
    if not 2 <= len(value) <= MAX_TARGETS:
        message = _("%(param)s must have from %(low)s to %(high)s entries.")
        raise reading.refuse("candidates", "out_of_range", message, low=2, high=MAX_TARGETS)
    found = tuple(_candidate(item, f"candidates.{index}") for index, item in enumerate(value))
    if len({candidate.model for candidate in found}) != len(found):
        raise reading.refuse("candidates", "duplicate", _("%(param)s names a model twice."))
    return found


def _candidate(item: Any, where: str) -> GivenCandidate:
    _known(item, CANDIDATE_FIELDS, where)
    model = reading.text(item.get("model"), f"{where}.model", 128)
    if not model:
        raise reading.refuse(f"{where}.model", "empty", _("%(param)s must not be empty."))
    digest = item.get("digest")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        message = _("%(param)s must be the digest of the answer's done frame: 64 hexadecimal digits.")
        raise reading.refuse(f"{where}.digest", "invalid_digest", message)
    return GivenCandidate(
        model=model,
        name=reading.text(item.get("name") or model, f"{where}.name", 255),
        digest=digest,
        text=reading.text(item.get("text"), f"{where}.text", settings.MAX_PROMPT_CHARS),
        chosen=reading.boolean(item.get("chosen", False), f"{where}.chosen"),
    )


def _known(data: Any, fields: set[str], where: str) -> None:
    if not isinstance(data, Mapping):
        if not where:
            raise ApiError("invalid_type", _("The body must be a JSON object."))
        raise reading.refuse(where, "invalid_type", _("%(param)s must be an object."))
    unknown = next((key for key in data if key not in fields), None)
    if unknown is not None:
        name = f"{where}.{str(unknown)[:64]}" if where else str(unknown)[:64]
        raise reading.refuse(name, "unknown_parameter", _("There is no parameter named %(param)s."))
