"""What a reader may choose from: active adapters and usable base models, a bounded part of them at a time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models import Max
from django.utils import timezone

from adapters.listing import matching
from adapters.models import BaseModel, LoraAdapter

from .models import UsageDay
from .params import served_context

LISTED = 50  # of a page; what is not listed is found by searching
RECENT = 5
RECENT_DAYS = 30


@dataclass(frozen=True)
class Choice:
    """A model as a list of models shows it."""

    slug: str
    name: str
    kind: str  # adapter, base
    digest: str  # beginning of the content hash: the same of models that answer alike
    base: str
    base_slug: str
    context: int | None  # tokens that are served
    rank: int | None = None
    id: int | None = None  # of an adapter
    run: str = ""
    group: str = ""  # the same of the checkpoints of a run
    checkpoint: int | None = None
    is_best: bool = False
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Choices:
    """`count` is how many match; `adapters` and `bases` are those shown, `recent` of both come before them."""

    count: int
    recent: list[Choice]
    adapters: list[Choice]
    bases: list[Choice]

    @property
    def all(self) -> list[Choice]:
        return [*self.recent, *self.adapters, *self.bases]


def choices(user: Any = None, wanted: Collection[str] = (), search: str = "", limit: int = LISTED) -> Choices:
    """At most `limit` models in which every word of `search` occurs, adapters by run and step, and the slugs `wanted`.

    For a page of `user`: those that the user asked last come first, whatever the limit.
    """
    active = LoraAdapter.objects.active().select_related("base").prefetch_related("tags")
    adapters = matching(active, search).order_by("run_name", "checkpoint", "name", "slug")
    bases = [base for base in BaseModel.objects.order_by("name", "slug") if base.usable and _has_words(base, search)]
    first = recently_asked(user) if user is not None else []
    named = {*first, *wanted}
    by_slug = {adapter.slug: _of_adapter(adapter) for adapter in active.filter(slug__in=named)} if named else {}
    by_slug |= {base.slug: _of_base(base) for base in bases if base.slug in named}
    recent = [by_slug[slug] for slug in first if slug in by_slug][:RECENT]
    shown = {choice.slug for choice in recent}
    found = [_of_adapter(adapter) for adapter in adapters.exclude(slug__in=shown)[:limit]]
    listed = {choice.slug for choice in found}
    asked = [by_slug[slug] for slug in dict.fromkeys(wanted) if slug in by_slug and slug not in shown | listed]
    found[:0] = [choice for choice in asked if choice.kind == "adapter"]
    others = [base for base in bases if base.slug not in shown]
    listed_bases = [_of_base(base) for place, base in enumerate(others) if place < limit or base.slug in named]
    return Choices(adapters.count() + len(bases), recent, found, listed_bases)


def recently_asked(user: Any) -> list[str]:
    """Slugs of the models that this account asked in its browser lately, the latest first."""
    since = timezone.now().date() - timedelta(days=RECENT_DAYS)
    rows = UsageDay.objects.filter(user_id=user.pk, token_ref=0, day__gte=since).order_by()
    by_model = rows.values("model").annotate(last=Max("day"), newest=Max("pk")).order_by("-last", "-newest")
    return [row["model"] for row in by_model[: 4 * RECENT]]


def _has_words(base: BaseModel, search: str) -> bool:
    text = f"{base.name} {base.slug} {base.hub_id}".lower()
    return all(word in text for word in search.lower().split())


def _of_base(base: BaseModel) -> Choice:
    return Choice(
        base.slug,
        base.name,
        "base",
        base.key[:12],
        base.name,
        base.slug,
        served_context(base.context_length, base.name) or None,
    )


def _of_adapter(adapter: LoraAdapter) -> Choice:
    base = adapter.base
    return Choice(
        adapter.slug,
        adapter.name,
        "adapter",
        adapter.digest[:12],
        base.name if base else "",
        base.slug if base else "",
        served_context(base.context_length, base.name) or None if base else None,
        adapter.rank,
        adapter.pk,
        adapter.run_name,
        adapter.group_hash[:12],
        adapter.checkpoint,
        adapter.is_best,
        [tag.name for tag in adapter.tags.all()],
    )
