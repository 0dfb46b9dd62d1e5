"""`/api/evaluations/gates`: what a family of adapters has to show before one of it becomes active. Operators alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from django.http import Http404
from django.utils.translation import gettext as _
from pydantic import AfterValidator, Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import IsOperator
from adapters.models import LoraAdapter
from common.api import ApiError, Pagination
from common.shapes import CHARACTERS, Id, Shape, read
from evaluations.gates import keeping
from evaluations.models import Gate

from .sets import MAX_INT, one_line

Kind = Annotated[Literal["run", "tag"], Field(description="Adapters of a training run of this name, or with this tag.")]
Name = Annotated[str, Field(max_length=255), CHARACTERS, AfterValidator(one_line)]
Least = Annotated[float, Field(ge=0, le=1, description="Lowest share of answers that pass.")]
NotWorse = Annotated[bool, Field(description="At least as many as the adapter of the family activated last.")]
Tokens = Annotated[int, Field(ge=1, le=MAX_INT)]
Address = Annotated[str, Field(max_length=500, description="Told of each verdict; its host must be in WEBHOOK_HOSTS.")]


class NewGate(Shape):
    kind: Kind
    name: Name
    prompts: Annotated[Id, Field(description="Id of the prompt set.")]
    least: Least | None = None
    not_worse: NotWorse = False
    max_tokens: Tokens = 256
    webhook: Address = ""


class GateChange(Shape):
    """What is not named stays. `least`: null for none."""

    kind: Kind | None = None
    name: Name | None = None
    prompts: Id | None = None
    least: Least | None = None
    not_worse: NotWorse | None = None
    max_tokens: Tokens | None = None
    webhook: Address | None = None


class WantedVerdict(Shape):
    adapter: Annotated[Id, Field(description="Id of an adapter of the family.")]


def adapter_of(text: str) -> LoraAdapter:
    """By slug, or by id. Raises Http404."""
    rows = LoraAdapter.objects.all()
    found = rows.filter(slug=text[:200]).first() if "\0" not in text else None
    if found is None and text.isascii() and text.isdecimal() and len(text) < 19:
        found = rows.filter(pk=int(text)).first()
    if found is None:
        raise Http404
    return found


class GatesView(APIView):
    permission_classes = [IsOperator]

    def get(self, request: Request) -> Response:
        pages = Pagination()
        rows = Gate.objects.select_related("prompts", "owner")
        page = pages.paginate_queryset(rows, request, view=self) or []
        return pages.get_paginated_response([keeping.gate_json(gate) for gate in page])

    def post(self, request: Request) -> Response:
        given = read(NewGate, request.data)
        gate = keeping.save(request.user, Gate(), **given.model_dump())
        return Response(keeping.gate_json(gate), status=201)


class GateView(APIView):
    permission_classes = [IsOperator]

    def get(self, request: Request, pk: int) -> Response:
        return Response(keeping.gate_json(keeping.one(pk)))

    def patch(self, request: Request, pk: int) -> Response:
        gate = keeping.one(pk)
        given = read(GateChange, request.data)
        changes: dict[str, Any] = {
            name: value
            for name, value in given.model_dump(exclude_unset=True).items()
            if value is not None or name == "least"
        }
        return Response(keeping.gate_json(keeping.save(request.user, gate, **changes)))

    def delete(self, request: Request, pk: int) -> Response:
        keeping.one(pk).delete()
        return Response(status=204)


class VerdictsView(APIView):
    """Newest first."""

    permission_classes = [IsOperator]

    def get(self, request: Request, pk: int) -> Response:
        gate = keeping.one(pk)
        pages = Pagination()
        page = pages.paginate_queryset(gate.verdicts.select_related("adapter"), request, view=self) or []
        return pages.get_paginated_response([keeping.verdict_json(gate, verdict) for verdict in page])

    def post(self, request: Request, pk: int) -> Response:
        gate = keeping.one(pk)
        adapter = LoraAdapter.objects.filter(pk=read(WantedVerdict, request.data).adapter).first()
        if adapter is None:
            raise Http404
        return Response(keeping.verdict_json(gate, keeping.judge(gate, adapter)), status=202)


class NoticesView(APIView):
    """What its webhook was told, newest first."""

    permission_classes = [IsOperator]

    def get(self, request: Request, pk: int) -> Response:
        pages = Pagination()
        page = pages.paginate_queryset(keeping.one(pk).notices.all(), request, view=self) or []
        return pages.get_paginated_response([keeping.notice_json(notice) for notice in page])


class StandingView(APIView):
    """`?adapter=` slug or id: may it become active, and what each gate of its family found."""

    permission_classes = [IsOperator]

    def get(self, request: Request) -> Response:
        wanted = request.GET.get("adapter", "")
        if not wanted:
            raise ApiError("required", _("%(param)s is missing.") % {"param": "adapter"}, 400, "adapter")
        return Response(keeping.standings_json(adapter_of(wanted)))
