"""Search, filters and ordering of the adapter list."""

from __future__ import annotations

from collections.abc import Mapping

from django.db.models import Q
from django.utils.translation import gettext as _

from adapters.models import Status
from adapters.models.adapter import AdapterQuerySet
from common.api import ApiError

ORDERINGS = {
    "name", "slug", "status", "rank", "size_bytes", "created_at", "updated_at", "activated_at", "trained_at",
    "use_count", "last_used_at", "effect_kl", "id",
}  # fmt: skip
FLAGS = ("incomplete", "missing", "update_available", "is_best", "is_last")
TRUE, FALSE = {"1", "true", "yes"}, {"0", "false", "no"}


def filtered(rows: AdapterQuerySet, query: Mapping[str, str]) -> AdapterQuerySet:
    """`rows` by `?status= ?search= ?base= ?tag= ?failure= ?run= ?duplicates=` and the flags, in `?ordering=`.

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
    if query.get("duplicates", "") in FALSE:
        rows = rows.filter(duplicate_of=None)
    for flag in FLAGS:
        if value := query.get(flag, "").lower():
            if value not in TRUE | FALSE:
                raise _bad(flag, _("true or false."))
            rows = rows.filter(**{flag: value in TRUE})
    return _ordered(_found(rows, query.get("search", "").strip()), query.get("ordering", ""))


def _found(rows: AdapterQuerySet, search: str) -> AdapterQuerySet:
    """Rows in which every word of `search` occurs."""
    for word in search[:200].replace("\0", "").split():
        matches = Q()
        for field in ("name", "slug", "notes", "run_name", "base_name_recorded", "base__name", "tags__name"):
            matches |= Q(**{f"{field}__icontains": word})
        rows = rows.filter(pk__in=rows.model.objects.filter(matches).values("pk"))
    return rows


def _ordered(rows: AdapterQuerySet, ordering: str) -> AdapterQuerySet:
    if not ordering:
        return rows
    fields = ordering.split(",")
    for field in fields:
        if field.removeprefix("-") not in ORDERINGS:
            raise _bad("ordering", _("One of: %(choices)s.") % {"choices": ", ".join(sorted(ORDERINGS))})
    return rows.order_by(*fields, "-id")


def _bad(param: str, message: str) -> ApiError:
    return ApiError("invalid", message, 400, param)
