"""Gathered figures into the database, in small transactions; and what is too old or too much out of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from common.api import sendable
from inference.models import Happening, RequestFacts, Series

from .entries import EngineIncident, Record
from .figures import Figures
from .gathering import MINUTE, STEPS, Measurements, Subject

T = TypeVar("T")

CHUNK = 200  # rows of one transaction
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)  # start of the rows of step 0
KEPT = {MINUTE: timedelta(days=1), STEPS[1]: timedelta(days=3)}  # the coarser ones as long as MONITORING_DAYS says
KINDS = ("all", "model", "user", "engine")
MOST_FACTS = 20_000
MOST_HAPPENINGS = 20_000


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def instant(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def write(gathering: Measurements) -> None:
    """Raises DatabaseError; what was not written by then stays with `gathering`."""
    gathering.roll_up()
    for keys in chunks(sorted(gathering.unwritten)):
        rows = [
            series(step, subject, instant(start), gathering.process, gathering.rows[step, subject, start])
            for step, subject, start in keys
        ]
        upsert(rows)
        gathering.unwritten.difference_update(keys)
    for subjects in chunks(sorted(gathering.beginning)):
        join_beginning({subject: gathering.beginning[subject] for subject in subjects})
        for subject in subjects:
            del gathering.beginning[subject]
    facts = [facts_row(record) for record in gathering.facts()]
    happenings = [happening_row(event) for event in gathering.happenings]
    if facts or happenings:
        with transaction.atomic():
            RequestFacts.objects.bulk_create(facts)
            Happening.objects.bulk_create(happenings)
        gathering.told()


def series(step: int, subject: Subject, start: datetime, process: str, figures: Figures) -> Series:
    kind, name = subject
    requests = figures.counts["requests"]
    return Series(
        step=step, kind=kind, name=name[:128], start=start, process=process, requests=requests, data=figures.data()
    )


def upsert(rows: list[Series]) -> None:
    named = ["step", "kind", "name", "start", "process"]
    target: dict[str, Any] = {"unique_fields": named}
    if not connection.features.supports_update_conflicts_with_target:  # MySQL finds the key by itself
        target = {}
    Series.objects.bulk_create(rows, update_conflicts=True, update_fields=["requests", "data"], **target)


def join_beginning(found: dict[Subject, Figures]) -> None:
    """Add to the rows of step 0. Only METRICS_MODELS models have one of their own: the first that were asked."""
    whole: defaultdict[Subject, Figures] = defaultdict(Figures)
    with transaction.atomic():
        own = set(Series.objects.filter(step=0, kind="model").exclude(name="").values_list("name", flat=True))
        for (kind, name), figures in found.items():
            if kind == "model" and name not in own and len(own) >= settings.METRICS_MODELS:
                name = ""
            elif kind == "model":
                own.add(name)
            whole[kind, name].merge(figures)
        empty = [series(0, subject, BEGINNING, "", Figures()) for subject in sorted(whole)]
        Series.objects.bulk_create(empty, ignore_conflicts=True)
        for row in Series.objects.select_for_update().filter(step=0):  # from here on nobody else adds to them
            if (row.kind, row.name) in whole:
                whole[row.kind, row.name].merge(Figures(row.data))
        upsert([series(0, subject, BEGINNING, "", figures) for subject, figures in whole.items()])


def happening_row(event: EngineIncident) -> Happening:
    key, name, reason = event.key[:64], event.name[:255], event.reason[:200]
    return Happening(at=instant(event.at), kind=event.kind, key=key, name=name, seconds=event.seconds, reason=reason)


def facts_row(record: Record) -> RequestFacts:
    same = "code reason total ttft token_ref prompt_tokens cached_tokens completion_tokens".split()
    return RequestFacts(
        at=instant(record.at),
        request_id=record.request_id[:64],
        user_ref=record.user_id,
        model=record.model[:128],
        digest=record.digest[:64],
        detail=record.detail[:200],
        **(kept_texts(record) if settings.MONITORING_TEXTS else {}),
        stages={name: round(seconds, 4) for name, seconds in record.stages.items()},
        **{name: getattr(record, name) for name in same},
    )


def kept_texts(record: Record) -> dict[str, str]:
    return {"prompt": sendable(record.prompt), "answer": sendable(record.answer)}


def tend(days: int) -> None:
    """Delete what is older than it is kept, and of slow requests the least slow where there are too many."""
    now = timezone.now()
    end = now - timedelta(days=days)
    for step in STEPS:
        before = max(end, now - KEPT.get(step, timedelta(days=days)))
        Series.objects.filter(step=step, kind__in=KINDS, start__lt=before).delete()
    RequestFacts.objects.filter(at__lt=end).delete()
    if not settings.MONITORING_TEXTS:  # it was once
        RequestFacts.objects.exclude(prompt="", answer="").update(prompt="", answer="")
    Happening.objects.filter(at__lt=end).delete()
    trim(Happening.objects.order_by("at"), MOST_HAPPENINGS)
    trim(RequestFacts.objects.filter(at__lt=now - timedelta(hours=6)).order_by("total"), MOST_FACTS)


def trim(rows: Any, most: int) -> None:
    """Delete the first of `rows` beyond `most`."""
    excess = rows.count() - most
    for keys in chunks(list(rows.values_list("pk", flat=True)[: max(0, excess)])):
        rows.model.objects.filter(pk__in=keys).delete()
