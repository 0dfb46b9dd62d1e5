"""Slow and failed requests with their cause, and what happened around them: loads, evictions, crashes, activations."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import Max, QuerySet

from accounts.models import ApiToken
from adapters.models import AdapterEvent, BaseModel, LoraAdapter
from adapters.models.event import EventKind
from common.numbers import grouped
from inference.errors import sentence
from inference.measuring.trace import STAGES
from inference.measuring.writing import instant
from inference.models import Happening, RequestFacts
from inference.quota.limits import REFUSALS

from .history import Range

MOST_REQUESTS = 50
MOST_MARKS = 300
NEWEST_EVENTS = 5000  # of the registry's, which may be many: no older ones are looked at
REMEMBERED = timedelta(days=1)  # how long before its load an adapter may have been evicted
MARKED = (EventKind.ACTIVATED, EventKind.DEACTIVATED, EventKind.FAILED, EventKind.FORGOTTEN)


def requests(wanted: Range, which: str, user: int | None, model: str) -> list[dict[str, Any]]:
    """The slowest (`which` "slow", slowest first) or the failed (newest first), of one user or one model or of all."""
    rows = RequestFacts.objects.filter(at__gte=instant(time.time() - wanted.length))
    if user is not None:
        rows = rows.filter(user_ref=user)
    if model:
        rows = rows.filter(model=model)
    rows = rows.exclude(code="").order_by("-at") if which == "failed" else rows.filter(code="").order_by("-total")
    found = list(rows[:MOST_REQUESTS])
    users, tokens, evicted = user_names(row.user_ref for row in found), token_names(found), evictions(found)
    return [
        {
            **{name: getattr(row, name) for name in FACTS},
            "at": row.at.timestamp(),
            "user": users.get(str(row.user_ref), ""),
            "token": tokens.get(row.token_ref, ""),
            "message": message(row),
            "cause": "" if row.code else cause(row),
            "evicted_at": evicted.get(row.pk),
            **({"prompt": row.prompt, "answer": row.answer} if settings.MONITORING_TEXTS else {}),
        }
        for row in found
    ]


FACTS = (
    "request_id model digest reason code detail total ttft stages prompt_tokens cached_tokens completion_tokens".split()
)


def message(row: RequestFacts) -> str:
    """What the error of a failed request says; "" for one that did not fail."""
    if row.code in REFUSALS:
        limit = int(row.detail) if row.detail.isdigit() else row.detail
        return str(REFUSALS[row.code]) % {"limit": grouped(limit)}
    return sentence(row.code, {"reason": row.detail} if row.detail else None) if row.code else ""


def cause(row: RequestFacts) -> str:
    """What took longest: writing the answer, or else, of all that came before it, the longest stage."""
    before = {stage: row.stages.get(stage, 0.0) for stage in STAGES if stage != "answer"}
    return "answer" if row.stages.get("answer", 0.0) > sum(before.values()) else max(before, key=lambda s: before[s])


def user_names(refs: Iterable[int]) -> dict[str, str]:
    users = get_user_model().objects.filter(pk__in=set(refs))
    return {str(user.pk): user.get_username() for user in users}


def model_names(slugs: Iterable[str]) -> dict[str, str]:
    wanted = set(slugs)
    found = (kind.objects.filter(slug__in=wanted).values_list("slug", "name") for kind in (BaseModel, LoraAdapter))
    return dict(row for rows in found for row in rows)


def token_names(rows: Sequence[RequestFacts]) -> dict[int, str]:
    return dict(ApiToken.objects.filter(pk__in={row.token_ref for row in rows}).values_list("pk", "name"))


def evictions(rows: Sequence[RequestFacts]) -> dict[int, float]:
    """For requests that waited for their adapter: when it had last been evicted, by the row's id."""
    waited = [row for row in rows if row.stages.get("adapter", 0.0) > 0]
    if not waited:
        return {}
    first = min(row.at for row in waited) - REMEMBERED
    left = Happening.objects.filter(kind="adapter_evicted", at__gte=first, key__in={row.digest for row in waited})
    found: dict[int, float] = {}
    for key, at in left.order_by("at").values_list("key", "at")[:10_000]:
        found.update({row.pk: at.timestamp() for row in waited if row.digest == key and at <= row.at})
    return found


def marks(wanted: Range) -> list[dict[str, Any]]:
    """What happened, newest first: of the engine, and activations and new versions of the registry."""
    since = instant(time.time() - wanted.length)
    engine = [
        {"at": row.at.timestamp(), **{name: getattr(row, name) for name in ("kind", "name", "seconds", "reason")}}
        for row in Happening.objects.filter(at__gte=since).order_by("-at")[:MOST_MARKS]
    ]
    registry = [
        {
            "at": row.created_at.timestamp(),
            "kind": row.kind,
            "name": row.adapter_name,
            "seconds": 0.0,
            "reason": row.code,
        }
        for row in registry_events().filter(created_at__gte=since)[:MOST_MARKS]
    ]
    return sorted([*engine, *registry], key=lambda mark: -mark["at"])[:MOST_MARKS]


def registry_events() -> QuerySet[AdapterEvent]:
    newest = AdapterEvent.objects.aggregate(newest=Max("pk"))["newest"] or 0
    return AdapterEvent.objects.filter(pk__gt=newest - NEWEST_EVENTS, kind__in=MARKED).order_by("-pk")
