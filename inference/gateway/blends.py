"""A blend as a target: adapters of one base, each with its weight, that answer as one; nothing is written anywhere.

Every member is looked up like a model that is asked for itself, so each must be active at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from channels.db import database_sync_to_async

from inference.engine.protocol import AdapterSpec, Member
from inference.engine.recipes import recipe_digest
from inference.errors import InferenceError
from inference.params import Ingredient

from .targets import BlendPart, Target, find

MAX_LABEL = 128  # characters, as a usage row takes of a model's name
Weighted = tuple[Target, AdapterSpec, float]


def find_blend(asked: Sequence[Ingredient], model: str | None = None) -> Target:
    """What answers for these adapters with their weights. A weight of 0 takes no part; where one adapter with the
    weight 1 is left, that is what answers.

    `model`: what a request names besides, which must be one of them or their base. Raises InferenceError as `find`
    does, `blend_not_adapter`, `blend_bases_differ`, `blend_model_differs`.
    """
    found = [weighted(find(part.model), part.weight) for part in asked]
    base = found[0][0].base
    for target, _, _ in found:
        if target.base["key"] != base["key"]:
            detail = {"name": target.name, "base": target.base["name"], "other": base["name"]}
            raise InferenceError("blend_bases_differ", "adapters", detail)
    if model is not None:
        check_model(find(model), found)
    return of_parts([part for part in found if part[2]])


def weighted(target: Target, weight: float) -> Weighted:
    if target.adapter is None:
        raise InferenceError("blend_not_adapter", "adapters", {"name": target.name})
    return target, target.adapter, weight


def check_model(named: Target, found: Sequence[Weighted]) -> None:
    is_base = named.adapter is None and named.base["key"] == found[0][0].base["key"]
    slugs = [target.slug for target, _, _ in found]
    if not is_base and named.slug not in slugs:
        raise InferenceError("blend_model_differs", "model", {"names": shortened(", ".join(slugs), 500)})


def of_parts(parts: Sequence[Weighted]) -> Target:
    recipe = tuple(BlendPart(target.slug, weight, adapter["digest"]) for target, adapter, weight in parts)
    if [weight for _, _, weight in parts] == [1.0]:
        return replace(parts[0][0], recipe=recipe)
    label = label_of((part.model, part.weight) for part in recipe)
    spec: AdapterSpec = {
        "digest": recipe_digest((part.digest, part.weight) for part in recipe),
        "path": "",
        "name": label,
        "proven": True,  # no proof: a blend without any effect is what was asked for
        "members": [member(adapter, weight) for _, adapter, weight in parts],
    }
    return Target(label, label, parts[0][0].base, spec, recipe=recipe)


def member(adapter: AdapterSpec, weight: float) -> Member:
    return {
        "digest": adapter["digest"],
        "path": adapter["path"],
        "name": adapter["name"],
        "prompting": adapter.get("prompting", ""),
        "weight": weight,
    }


def label_of(parts: Iterable[tuple[str, float]]) -> str:
    """What a blend of these (slug, weight) is called where a model has its slug; the digest tells equal ones apart."""
    return shortened(" + ".join(f"{weight:g} × {slug}" for slug, weight in parts), MAX_LABEL)


def shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


resolve_blend = database_sync_to_async(find_blend)
