"""`/v1/models`: what may be asked, adapters and bases alike."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from pydantic import Field

from adapters.models import BaseModel, LoraAdapter
from common.answers import Answer
from common.api import ApiError
from inference.errors import InferenceError
from inference.gateway.blends import find_blend
from inference.gateway.targets import Target, find
from inference.params import Ingredient, served_context

NAMED = 50  # models that a refusal lists


class Model(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None = Field(description="The base model's id; null for a base.")
    max_model_len: int | None
    status: str
    digest: str


class Models(Answer):
    object: Literal["list"]
    data: list[Model]


def served_adapters() -> QuerySet[LoraAdapter]:
    rows = LoraAdapter.objects.active().filter(base__missing=False, base__problem_code="")
    return rows.select_related("base").order_by("slug")


def served_bases() -> QuerySet[BaseModel]:
    return BaseModel.objects.filter(missing=False, problem_code="").order_by("slug")


def adapter_json(adapter: LoraAdapter) -> dict[str, Any]:
    base = adapter.base
    return model_json(
        adapter.slug,
        adapter.activated_at or adapter.created_at,
        served_context(base.context_length, base.name) if base else 0,
        parent=base.slug if base else None,
        status=adapter.status,
        digest=adapter.digest,
    )


def base_json(base: BaseModel) -> dict[str, Any]:
    return model_json(
        base.slug,
        base.created_at,
        served_context(base.context_length, base.name),
        parent=None,
        status="active",
        digest=base.key,
    )


def model_json(slug: str, created: datetime, context: int, **facts: Any) -> dict[str, Any]:
    """One entry; `root`, `parent` and `max_model_len` as vLLM names them (names here, never paths)."""
    return Model.of(
        id=slug,
        root=slug,
        object="model",
        created=int(created.timestamp()),
        owned_by="lora-portal",
        max_model_len=served_context(context) or None,
        **facts,
    )


def listing() -> list[dict[str, Any]]:
    adapters = [adapter_json(adapter) for adapter in served_adapters()]
    taken = {entry["id"] for entry in adapters}
    return adapters + [base_json(base) for base in served_bases() if base.slug not in taken]


def one(slug: str) -> dict[str, Any]:
    """Raises ApiError `model_not_found`."""
    target = target_of(slug)
    if target.pk is not None:
        adapter = served_adapters().filter(pk=target.pk).first()
        known = adapter_json(adapter) if adapter else None
    else:
        base = served_bases().filter(slug=target.slug).first()
        known = base_json(base) if base else None
    if known is None:  # it went just now
        raise not_found(slug)
    return known


def target_of(slug: str, adapters: Sequence[Ingredient] | None = None) -> Target:
    """What answers for `model`, or for a blend. Raises ApiError `model_not_found` with the names of what there is, and
    for a blend as `find_blend` does."""
    try:
        target = find(slug)
    except InferenceError:
        raise not_found(slug) from None
    return target if adapters is None else find_blend(adapters, slug)


def not_found(slug: str) -> ApiError:
    names = list(served_adapters().values_list("slug", flat=True)[:NAMED])
    names += [slug for slug in served_bases().values_list("slug", flat=True)[:NAMED] if slug not in names]
    message = _("The model “%(name)s” does not exist or is not active. Available models: %(names)s.") % {
        "name": slug[:100],
        "names": ", ".join(names[:NAMED]) or "–",
    }
    return ApiError("model_not_found", message, 404, "model", extra={"available": names[:NAMED]})
