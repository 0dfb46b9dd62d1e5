"""GET `/api/monitoring/history` and `/api/monitoring/requests`: one's own use for a person, all for operators."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.utils.translation import gettext as _
from pydantic import Field
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.grants import Grant
from accounts.models import Scope
from accounts.permissions import may
from common.answers import Answer
from common.api import ApiError
from inference.measuring.gathering import ALL, Subject

from . import history, incidents
from .history import RANGES, Range, Value


class Mark(Answer):
    at: float = Field(description="Unix time.")
    kind: str
    name: str
    seconds: float = Field(description="That a load took.")
    reason: str


class Busiest(Answer):
    name: str = Field(description="Of the account; the id of the model.")
    label: str = Field(description="What it is called at present.")
    requests: int
    failed: int
    latency_p50: float | None
    latency_p95: float | None
    ttft_p95: float | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class History(Answer):
    times: list[int] = Field(description="Unix times at which the steps begin.")
    step: int = Field(description="Seconds of a step.")
    columns: dict[str, list[Value]] = Field(description="Values of the steps; durations in seconds.")
    whole: dict[str, Any] = Field(description="The whole range as one step.")
    engine: dict[str, list[Value]] | None = Field(description="Columns of the engine, for operators who ask for all.")
    marks: list[Mark] = Field(description="What happened, newest first; for operators.")
    models: list[Busiest] = Field(description="The models with most requests; for operators who ask for all.")
    users: list[Busiest] = Field(description="The accounts with most requests; for operators who ask for all.")


class Facts(Answer):
    at: float = Field(description="Unix time of its end.")
    request_id: str
    user: str
    token: str
    model: str
    digest: str
    reason: str = Field(description="How it ended: a finish reason, or error.")
    code: str = Field(description="Of the error.")
    message: str = Field(description="Of the error, for people.")
    detail: str
    cause: str = Field(description="The stage that took longest.")
    stages: dict[str, float] = Field(description="Seconds by stage.")
    evicted_at: float | None = Field(description="When its adapter had last left memory, where it was loaded anew.")
    total: float = Field(description="Seconds.")
    ttft: float | None = Field(description="Seconds to the first token.")
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prompt: str = Field("", description="The last 2,000 characters of what was asked, where MONITORING_TEXTS is on.")
    answer: str = Field("", description="The first 2,000 characters of the answer, likewise.")


class FactsList(Answer):
    results: list[Facts]


class HistoryView(APIView):
    """Rates, percentiles and tokens over `?range=`; for operators of `?user=all`, of one, or of one `?model=`."""

    permission_classes = [IsAuthenticated]

    def get(self, request: Request) -> Response:
        wanted, subject = range_of(request), subject_of(request)
        found = history.history(subject, wanted)
        whole = subject == ALL
        models = history.busiest("model", wanted) if whole else []
        users = history.busiest("user", wanted) if whole else []
        names = incidents.user_names(int(row["name"]) for row in users)
        labels = incidents.model_names(row["name"] for row in models)
        return Response(
            History.of(
                **found,
                engine=history.engine_history(wanted) if whole else None,
                marks=incidents.marks(wanted) if is_operator(request) else [],
                models=[row | {"label": labels.get(row["name"], row["name"])} for row in models],
                users=[
                    row | {"name": names[row["name"]], "label": names[row["name"]]}
                    for row in users
                    if row["name"] in names
                ],
            )
        )


class RequestsView(APIView):
    """The slowest or the failed requests of `?range=`, at most 50, with their facts; texts only by MONITORING_TEXTS."""

    permission_classes = [IsAuthenticated]

    def get(self, request: Request) -> Response:
        kind, name = subject_of(request)
        which = chosen(request, "which", ("slow", "failed"))
        user, model = int(name) if kind == "user" else None, name if kind == "model" else ""
        rows = incidents.requests(range_of(request), which, user, model)
        return Response(FactsList.of(results=rows))


def is_operator(request: Request) -> bool:
    return may(request.user, request.auth, Scope.OPERATE)


def range_of(request: Request) -> Range:
    return RANGES[chosen(request, "range", tuple(RANGES), "1h")]


def chosen(request: Request, name: str, choices: tuple[str, ...], default: str = "") -> str:
    value = request.query_params.get(name, default or choices[0])
    if value not in choices:
        message = _("%(name)s must be one of %(choices)s.") % {"name": name, "choices": ", ".join(choices)}
        raise ApiError("invalid_choice", message, 400, name)
    return value


def subject_of(request: Request) -> Subject:
    """Whose figures: the asker's own, unless an operator asks for others. Raises ApiError."""
    user, model = request.query_params.get("user", "me"), request.query_params.get("model", "")
    if user == "me" and not model:
        return "user", str(Grant.of_request(request).user_id)
    if not is_operator(request):
        raise ApiError(
            "permission_denied",
            _("Only operators can view the usage of other users."),
            403,
            "model" if model else "user",
        )
    if model:
        return "model", model
    if user == "all":
        return ALL
    found = get_user_model().objects.filter(username=user[:150]).first()
    if found is None:
        raise ApiError("unknown_user", _("Account not found."), 404, "user")
    return "user", str(found.pk)
