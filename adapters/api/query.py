"""Search, filters and ordering of the adapter list."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db.models import F, Q
from django.utils.translation import gettext as _

from adapters.listing import matching, parse_day, parse_number
from adapters.models import Status
from adapters.models.adapter import AdapterQuerySet
from common.api import ApiError

ORDERINGS = {
    "name", "slug", "status", "rank", "size_bytes", "created_at", "updated_at", "activated_at", "trained_at",
    "use_count", "last_used_at", "effect_kl", "effect_changed", "loss", "eval_loss", "base", "run", "checkpoint", "id",
}  # fmt: skip
COLUMNS = {"base": "base__name", "run": "run_name"}  # of orderings that are called otherwise
DAYS = {"trained_after": "trained_at__gte", "trained_before": "trained_at__lt"}
BOUNDS = {
    "max_loss": "loss__lte", "max_eval_loss": "eval_loss__lte", "min_effect": "effect_changed__gte",
    "max_effect": "effect_changed__lte",
}  # fmt: skip
FLAGS = ("incomplete", "missing", "update_available", "is_best", "is_last")
TRUE, FALSE = {"1", "true", "yes"}, {"0", "false", "no"}


def filtered(rows: AdapterQuerySet, query: Mapping[str, str]) -> AdapterQuerySet:
    """`rows` by `?status= ?search= ?base= ?tag= ?failure= ?run= ?run_of= ?duplicates=`, the flags, days and bounds,
    in `?ordering=`.

    Raises ApiError 400 with the parameter's name.
    """
    status = query.get("status", "")
    if status:
        if status not in Status.values:
            raise _bad("status", _("One of: %(choices)s.") % {"choices": ", ".join(Status.values)})
        rows = rows.filter(status=status)
    if base := query.get("base", ""):
        by_id = Q(base_id=int(base)) if base.isdecimal() and len(base) < 19 else Q()
        rows = rows.filter(Q(base__slug=base) | Q(base__name=base) | by_id)
    if tag := query.get("tag", ""):
        rows = rows.filter(tags__name=tag.strip().lower())
    if failure := query.get("failure", ""):
        rows = rows.filter(failure_code=failure)
    if run := query.get("run", ""):
        rows = rows.filter(run_name=run)
    if member := query.get("run_of", ""):
        if not member.isdecimal() or len(member) > 18:
            raise _bad("run_of", _("The id of an adapter."))
        runs = rows.model.objects.filter(pk=int(member)).exclude(group_hash="").values("group_hash")
        rows = rows.filter(Q(group_hash__in=runs) | Q(pk=int(member)))
    rows = _within(rows, query)
    if query.get("duplicates", "") in FALSE:
        rows = rows.filter(duplicate_of=None)
    for flag in FLAGS:
        if value := query.get(flag, "").lower():
            if value not in TRUE | FALSE:
                raise _bad(flag, _("Must be true or false."))
            rows = rows.filter(**{flag: value in TRUE})
    return _ordered(matching(rows, query.get("search", "").strip()), query.get("ordering", ""))


def _within(rows: AdapterQuerySet, query: Mapping[str, str]) -> AdapterQuerySet:
    """By `?trained_after= ?trained_before=` (days, the second one included) and the numbers of `BOUNDS`."""
    for name, lookup in DAYS.items():
        if text := query.get(name, ""):
            day = parse_day(text)
            if day is None:
                raise _bad(name, _("A day such as 2026-03-31."))
            rows = rows.filter(**{lookup: day if name == "trained_after" else day + timedelta(days=1)})
    for name, lookup in BOUNDS.items():
        if text := query.get(name, ""):
            number = parse_number(text)
            if number is None:
                raise _bad(name, _("A number."))
            rows = rows.filter(**{lookup: number})
    return rows


def _ordered(rows: AdapterQuerySet, ordering: str) -> AdapterQuerySet:
    if not ordering:
        return rows
    fields = ordering.split(",")
    for field in fields:
        if field.removeprefix("-") not in ORDERINGS:
            raise _bad("ordering", _("One of: %(choices)s.") % {"choices": ", ".join(sorted(ORDERINGS))})
    return rows.order_by(*map(_column, fields), "-id")


def _column(ordering: str) -> Any:
    """What has no value comes last either way."""
    name = ordering.removeprefix("-")
    column = F(COLUMNS.get(name, name))
    return column.desc(nulls_last=True) if ordering.startswith("-") else column.asc(nulls_last=True)


def _bad(param: str, message: str) -> ApiError:
    return ApiError("invalid", message, 400, param)
