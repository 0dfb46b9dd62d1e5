"""What decides an answer, as a digest: what has the same key is computed once."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from evaluations.items import digest_of
from evaluations.models import Item, RunTarget
from inference.gateway.targets import Target


def facts_of(target: Target) -> dict[str, str]:
    """The digests of what answers; a base's own chat template is a part of its key."""
    return {
        "digest": target.digest,
        "base_key": target.base["key"],
        "base_name": target.base["name"],
        "prompting": target.adapter.get("prompting", "") if target.adapter else "",
    }


def answer_key(item: Item, target: RunTarget, params: dict[str, Any]) -> str:
    """Of the answer that `target`, whose digests are known, gives to what the item asks."""
    return digest_of({**_model_of(item, target), "params": params, "chars": settings.EVALUATION_ANSWER_CHARS})


def score_key(item: Item, target: RunTarget) -> str:
    """Of the score of the item's reference: no parameter of sampling changes it."""
    return digest_of({**_model_of(item, target), "reference": item.reference})


def _model_of(item: Item, target: RunTarget) -> dict[str, Any]:
    return {
        "asked": item.asked_digest,
        "model": target.digest,
        "base": target.base_key,
        "prompting": target.prompting,
        "backend": settings.INFERENCE_BACKEND,
        "precision": settings.ENGINE_PRECISION,
        "raw": settings.ENGINE_RAW_CONTROL_TOKENS,
    }
