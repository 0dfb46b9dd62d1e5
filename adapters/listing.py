"""What a reader wants to see of the list of adapters: words, status, base, tag, days of training, loss and effect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import isfinite

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from .models import Status
from .models.adapter import AdapterQuerySet

SEARCHED = ("name", "slug", "notes", "run_name", "base_name_recorded", "base__name", "tags__name")


def matching(rows: AdapterQuerySet, search: str) -> AdapterQuerySet:
    """Rows in which every word of `search` occurs, in whatever field or in the path below its root; of a long text the
    first 200 characters count."""
    for word in search[:200].replace("\0", "").split():
        anywhere = Q(path__icontains=word, root__in=_roots_without(word.casefold()))
        for field in SEARCHED:
            anywhere |= Q(**{f"{field}__icontains": word})
        rows = rows.filter(pk__in=rows.model.objects.filter(anywhere).values("pk"))
    return rows


def _roots_without(word: str) -> list[str]:
    """The roots below which a path that holds `word` says something of its adapter. Others hold it themselves: it would
    find everything, and letter by letter tell where on the server the root lies."""
    roots = {os.path.realpath(root) for root in settings.LORA_ROOTS}
    return [r for r in roots if word not in r.casefold() and f"/{os.path.basename(r)}/".casefold() not in word]


def parse_day(text: str) -> datetime | None:
    """The beginning of a day in the portal's time zone; None where it or its end is beyond what a date can say."""
    try:
        day = timezone.make_aware(datetime.combine(date.fromisoformat(text), time()))
        for moment in (day, day + timedelta(days=1)):
            moment.astimezone(UTC)  # as a database gets it
    except (ValueError, OverflowError):
        return None
    return day


def parse_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


@dataclass(frozen=True)
class Wanted:
    """As the address says it; what cannot be read is "" and narrows nothing."""

    search: str = ""
    status: str = ""
    base: str = ""  # slug
    tag: str = ""
    after: str = ""  # days, as 2026-03-31
    before: str = ""
    loss: str = ""  # at most
    effect: str = ""  # at least so many per cent of tokens

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        said = {name: query.get(name, "").strip()[:100].replace("\0", "") for name in cls.__dataclass_fields__}
        if said["status"] not in Status.values:
            said["status"] = ""
        for name in ("after", "before"):
            said[name] = said[name] if parse_day(said[name]) else ""
        for name in ("loss", "effect"):
            said[name] = said[name] if parse_number(said[name]) is not None else ""
        return cls(**said)

    @property
    def any(self) -> bool:
        return any(vars(self).values())

    @property
    def filters(self) -> int:
        """How many of the fields behind "Filter" narrow the list."""
        return sum(bool(value) for value in (self.base, self.tag, self.after or self.before, self.loss, self.effect))

    def narrow(self, rows: AdapterQuerySet) -> AdapterQuerySet:
        """`rows` without those that are not wanted; the status is left to the caller, who counts by it."""
        if self.search:
            rows = matching(rows, self.search)
        if self.base:
            rows = rows.filter(base__slug=self.base)
        if self.tag:
            rows = rows.filter(tags__name=self.tag.lower())
        if after := parse_day(self.after):
            rows = rows.filter(trained_at__gte=after)
        if before := parse_day(self.before):
            rows = rows.filter(trained_at__lt=before + timedelta(days=1))
        if (loss := parse_number(self.loss)) is not None:
            rows = rows.filter(loss__lte=loss)
        if (effect := parse_number(self.effect)) is not None:
            rows = rows.filter(effect_changed__gte=effect / 100)
        return rows
