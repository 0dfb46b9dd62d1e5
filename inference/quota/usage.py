"""GET `/api/usage`: what an account asked, by day, model and token."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from django.db.models import QuerySet, Sum
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.grants import Grant
from accounts.models import ApiToken, Scope
from accounts.permissions import may
from common.answers import Answer, page_of
from common.api import ApiError, Pagination
from inference.models import UsageDay

from .limits import limits_of

MAX_DAYS = 366


class TokenRef(Answer):
    id: int
    name: str


class Totals(Answer):
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class UsageRow(Totals):
    day: date
    user: str
    token: TokenRef | None
    model: str
    digest: str


class LimitsObject(Answer):
    key: str
    requests_per_minute: int
    tokens_per_day: int
    concurrent: int


UsagePage = page_of(UsageRow, "UsagePage", totals=(Totals, ...), limits=(list[LimitsObject], ...))


class UsageView(APIView):
    """One's own use of the last `?days=` (1 to 366, default 30); operators may ask for everybody's (`?user=all`)."""

    permission_classes = [IsAuthenticated]

    def get(self, request: Request) -> Response:
        rows = wanted_rows(request)
        totals = rows.aggregate(**{name: Sum(name) for name in Totals.model_fields})
        pages = Pagination()
        page = pages.paginate_queryset(rows.select_related("user"), request, view=self) or []
        refs = {row.token_ref for row in page if row.token_ref}
        names = dict(ApiToken.objects.filter(pk__in=refs).values_list("pk", "name"))
        response = pages.get_paginated_response([row_json(row, names) for row in page])
        response.data["totals"] = Totals.of(**{name: total or 0 for name, total in totals.items()})
        response.data["limits"] = [LimitsObject.of(limits) for limits in limits_of(Grant.of_request(request))]
        return response


def wanted_rows(request: Request) -> QuerySet[UsageDay]:
    since = timezone.now().date() - timedelta(days=days_of(request) - 1)
    rows = UsageDay.objects.filter(day__gte=since)
    whose = request.query_params.get("user", "me")
    if whose == "all":
        if not may(request.user, request.auth, Scope.OPERATE):
            raise ApiError("permission_denied", _("Only operators can view the usage of other users."), 403, "user")
        return rows
    if whose != "me":
        raise ApiError("invalid_choice", _("user must be me or all."), 400, "user")
    return rows.filter(user_id=Grant.of_request(request).user_id)


def days_of(request: Request) -> int:
    text = request.query_params.get("days", "30")
    if not text.isascii() or not text.isdigit() or len(text) > 3 or not 1 <= int(text) <= MAX_DAYS:
        message = _("days must be a whole number from 1 to %(limit)s.") % {"limit": MAX_DAYS}
        raise ApiError("out_of_range", message, 400, "days")
    return int(text)


def row_json(row: UsageDay, names: dict[int, str]) -> dict[str, Any]:
    token = {"id": row.token_ref, "name": names.get(row.token_ref, "")} if row.token_ref else None
    return UsageRow.of(row, user=row.user.get_username(), token=token)
