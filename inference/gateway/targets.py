"""What a client may ask: active adapters and usable base models, by slug or by id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings
from django.http import Http404

from adapters.models import BaseModel, LoraAdapter, Status
from inference.engine.protocol import AdapterSpec, BaseSpec
from inference.errors import InferenceError

MAX_PK = 2**63 - 1  # what a database takes for an id


@dataclass(frozen=True)
class BlendPart:
    """An adapter that has a part in a blend."""

    model: str  # its slug
    weight: float
    digest: str


@dataclass(frozen=True)
class Target:
    """A model as a client names it (`slug`), and what the engine is to load for it.

    Of a blend `slug` and `name` say the recipe, and `recipe` lists it; of every other model that is empty."""

    slug: str
    name: str
    base: BaseSpec
    adapter: AdapterSpec | None = None
    pk: int | None = None  # of the adapter
    recipe: tuple[BlendPart, ...] = ()

    @property
    def digest(self) -> str:
        """Content hash of what answers: the adapter's, or the base's key."""
        return self.adapter["digest"] if self.adapter else self.base["key"]


def base_spec(base: BaseModel) -> BaseSpec:
    return {"key": base.key, "path": base.path, "name": base.name, "signature": base.signature}


def check_base(base: BaseModel) -> None:
    if base.problem_code == "base_unsupported" and not base.missing:
        raise InferenceError("base_unsupported", detail={"reason": base.refusal})
    if not base.usable:
        raise InferenceError("base_missing", detail={"name": base.name})


def of_base(base: BaseModel) -> Target:
    """Raises InferenceError `base_missing` where its folder is gone or unfit, `base_unsupported`."""
    check_base(base)
    return Target(base.slug, base.name, base_spec(base))


def of_adapter(adapter: LoraAdapter) -> Target:
    """Raises InferenceError `adapter_inactive`, `base_missing` or `base_unsupported`."""
    if adapter.status != Status.ACTIVE or not adapter.digest:
        raise InferenceError("adapter_inactive", detail={"name": adapter.name})
    if adapter.base is None:
        raise InferenceError("base_missing", detail={"name": adapter.name})
    proven = adapter.proven_digest == adapter.digest
    return _of_content(adapter, adapter.base, adapter.digest, adapter.prompting.get("sha256", ""), proven)


def of_copy(adapter: LoraAdapter, base: BaseModel, digest: str, prompting: str) -> Target:
    """A stored copy that is not served, for what judges it before it may be: no name leads here.

    The engine proves its effect before it answers, as of any. Raises InferenceError as `of_base`.
    """
    return _of_content(adapter, base, digest, prompting, proven=False)


def _of_content(adapter: LoraAdapter, base: BaseModel, digest: str, prompting: str, proven: bool) -> Target:
    check_base(base)
    spec: AdapterSpec = {
        "digest": digest,
        "path": str(Path(settings.STORE_DIR) / digest),
        "name": adapter.name,
        "prompting": prompting,
        "proven": proven,
    }
    return Target(adapter.slug, adapter.name, base_spec(base), spec, adapter.pk)


def find(slug: Any) -> Target:
    """The target with this slug, an adapter before a base, else the one with this name. Raises InferenceError."""
    if not isinstance(slug, str) or not slug or "\0" in slug:
        raise InferenceError("unknown_target", detail={"name": str(slug)[:100]})
    adapter = LoraAdapter.objects.select_related("base").filter(slug=slug).first()
    if adapter is not None and adapter.status == Status.ACTIVE:
        return of_adapter(adapter)
    base = BaseModel.objects.filter(slug=slug).first()
    if base is not None:
        return of_base(base)
    if adapter is not None:
        return of_adapter(adapter)
    return named(slug)


def named(name: str) -> Target:
    """The one model that people see by this name; a base's is its folder's. Raises InferenceError."""
    bases = BaseModel.objects.filter(name__iexact=name, missing=False)[:2]
    adapters = LoraAdapter.objects.select_related("base").filter(name__iexact=name)[:2]
    if len(bases) + len(adapters) != 1:  # never one of several
        raise InferenceError("unknown_target", detail={"name": name[:100]})
    return of_base(bases[0]) if bases else of_adapter(adapters[0])


def find_adapter(pk: int) -> Target:
    """The adapter with this id. Raises Http404, InferenceError."""
    if pk > MAX_PK:
        raise Http404
    adapter = LoraAdapter.objects.select_related("base").filter(pk=pk).first()
    if adapter is None:
        raise Http404
    return of_adapter(adapter)


resolve = database_sync_to_async(find)
resolve_adapter = database_sync_to_async(find_adapter)
