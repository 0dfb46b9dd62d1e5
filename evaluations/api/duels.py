"""`/api/evaluations/…/head-to-head`: a judge compares the answers of one's run; others see it with the run."""

from __future__ import annotations

from typing import Annotated

from django.http import Http404
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import ApiToken
from accounts.permissions import CanInfer
from common.api import Pagination
from common.shapes import CHARACTERS, Id, Shape
from evaluations import answers
from evaluations.models import Outcome
from evaluations.runs import making, queue
from evaluations.runs.duels import making as duels
from evaluations.runs.duels import tables
from inference.params import ModelName, body

MAX_INT = 2**31 - 1


class NewDuel(Shape):
    judge: Annotated[
        ModelName, Field(description="Slug of the model that judges; without one the judge model of the settings.")
    ] = ""
    targets: Annotated[list[Id], Field(max_length=1000, description="Ids of the run's models; all without any.")] = []
    items: Annotated[
        int | None, Field(ge=1, le=MAX_INT, description="At most so many items, the same ones each time.")
    ] = None
    criteria: Annotated[
        str, Field(max_length=2000, description="What the judge is told to look at."), CHARACTERS
    ] = ""  # fmt: skip


class DuelsView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        run = making.visible(request.user, pk)
        return Response(answers.Duels.of(results=[tables.duel_json(duel) for duel in duels.of_run(run)]))

    def post(self, request: Request, pk: int) -> Response:
        run = making.own(request.user, pk)
        given = body(NewDuel, request.data)
        token = request.auth if isinstance(request.auth, ApiToken) else None
        duel = duels.create(
            run, given.judge, given.targets, given.items, given.criteria.strip(), token.pk if token else 0
        )
        queue.wake()
        return Response(tables.whole_json(duel), status=201)


class DuelView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        return Response(tables.whole_json(duels.visible(request.user, pk)))

    def delete(self, request: Request, pk: int) -> Response:
        duels.delete(duels.own(request.user, pk))
        return Response(status=204)


class DuelCancelView(APIView):
    permission_classes = [CanInfer]

    def post(self, request: Request, pk: int) -> Response:
        """Nothing where it has ended."""
        duels.own(request.user, pk).cancel()
        return Response(tables.whole_json(duels.own(request.user, pk)))


class ComparisonsView(APIView):
    """Those that are settled, item by item, with what the judge said; `?outcome=` narrows them."""

    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        duel = duels.visible(request.user, pk)
        outcome = request.GET.get("outcome", "")
        if outcome and outcome not in Outcome.values:
            raise Http404
        pages = Pagination()
        page = pages.paginate_queryset(tables.bouts_of(duel, outcome), request, view=self) or []
        return pages.get_paginated_response(tables.bouts_json(page))
