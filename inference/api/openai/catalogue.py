"""`/v1/models`: what may be asked, adapters and bases alike."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from adapters.models import BaseModel, LoraAdapter
from common.api import ApiError
from inference.errors import InferenceError
from inference.gateway.targets import Target, find

NAMED = 50  # models that a refusal lists


def served_adapters() -> list[LoraAdapter]:
    rows = LoraAdapter.objects.active().filter(base__missing=False, base__problem_code="")
    return list(rows.select_related("base").order_by("slug"))


def served_bases() -> list[BaseModel]:
    return list(BaseModel.objects.filter(missing=False, problem_code="").order_by("slug"))


def adapter_json(adapter: LoraAdapter) -> dict[str, Any]:
    base = adapter.base
    return model_json(
        adapter.slug,
        created=int((adapter.activated_at or adapter.created_at).timestamp()),
        root=adapter.slug,
        parent=base.slug if base else None,
        status=str(adapter.status),
        digest=adapter.digest,
        context=base.context_length if base else 0,
    )


def base_json(base: BaseModel) -> dict[str, Any]:
    created = int(base.created_at.timestamp())
    return model_json(base.slug, created, base.slug, None, "active", base.key, base.context_length)


def model_json(
    slug: str, created: int, root: str, parent: str | None, status: str, digest: str, context: int
) -> dict[str, Any]:
    """One entry; `root`, `parent` and `max_model_len` as vLLM names them (names here, never paths)."""
    return {
        "id": slug,
        "object": "model",
        "created": created,
        "owned_by": "lora-portal",
        "root": root,
        "parent": parent,
        "max_model_len": min(context, settings.ENGINE_MAX_CONTEXT) or None,
        "status": status,
        "digest": digest,
    }


def listing() -> list[dict[str, Any]]:
    adapters = [adapter_json(adapter) for adapter in served_adapters()]
    taken = {entry["id"] for entry in adapters}
    return adapters + [base_json(base) for base in served_bases() if base.slug not in taken]


def one(slug: str) -> dict[str, Any]:
    """Raises ApiError `model_not_found`."""
    known = next((entry for entry in listing() if entry["id"] == slug), None)
    if known is None:
        raise not_found(slug)
    return known


def target_of(slug: str) -> Target:
    """What answers for `model`. Raises ApiError `model_not_found` with the names of what there is."""
    try:
        return find(slug)
    except InferenceError:
        raise not_found(slug) from None


def not_found(slug: str) -> ApiError:
    names = [entry["id"] for entry in listing()]
    message = _("The model “%(name)s” does not exist or is not active. There are: %(names)s.") % {
        "name": slug[:100],
        "names": ", ".join(names[:NAMED]) or "–",
    }
    return ApiError("model_not_found", message, 404, "model", extra={"available": names[:NAMED]})
