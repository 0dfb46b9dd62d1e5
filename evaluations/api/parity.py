"""`/api/evaluations/parity`: one's own parity reports."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from django.contrib.auth.models import User
from django.db.models import Count
from django.http import HttpResponse
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import ApiToken
from accounts.permissions import CanInfer
from common.api import Pagination
from common.shapes import Id, Shape
from evaluations import sets
from evaluations.models import Parity
from evaluations.parity import making
from evaluations.parity.export import markdown
from evaluations.parity.verdict import parity_json, whole_json
from evaluations.runs import queue
from inference.params import ModelName, body


class NewParity(Shape):
    adapter: Annotated[ModelName, Field(description="Slug of an active adapter.")]
    prompts: Annotated[Id, Field(description="Id of a prompt set: the trainer's evaluation samples, in their order.")]
    version: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="Without one: the newest.")] = None
    precisions: Annotated[
        list[Literal["fp32", "bf16", "int8", "nf4"]],
        Field(
            max_length=4, description="Of the base model, beside the one it is served in; measured by the processor."
        ),
    ] = []


def rows_of(request: Any) -> Any:
    """Newest first; `?adapter=`: the id of one."""
    rows = (
        Parity.objects.of(request.user)
        .select_related("version__prompts")
        .annotate(done=Count("samples"))
        .order_by("-pk")
    )
    adapter = str(request.GET.get("adapter", ""))
    if adapter:
        rows = rows.filter(adapter=int(adapter)) if adapter.isdecimal() and len(adapter) < 19 else rows.none()
    return rows


class ParitiesView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        pages = Pagination()
        page = pages.paginate_queryset(rows_of(request), request, view=self) or []
        return pages.get_paginated_response([parity_json(report, report.done) for report in page])

    def post(self, request: Request) -> Response:
        given = body(NewParity, request.data)
        user = cast(User, request.user)
        version = sets.version_of(sets.visible(user, given.prompts), given.version)
        token = request.auth if isinstance(request.auth, ApiToken) else None
        made = making.create(user, given.adapter, version, token.pk if token else 0, given.precisions)
        queue.wake()
        return Response(whole_json(made), status=201)


class ParityView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        return Response(whole_json(making.own(request.user, pk)))

    def delete(self, request: Request, pk: int) -> Response:
        making.delete(making.own(request.user, pk))
        return Response(status=204)


class ParityExportView(APIView):
    """As Markdown, in the reader's language."""

    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> HttpResponse:
        report = making.own(request.user, pk)
        answer = HttpResponse(markdown(report), content_type="text/markdown; charset=utf-8")
        answer["Content-Disposition"] = f'attachment; filename="parity-{report.pk}.md"'
        return answer


class ParityCancelView(APIView):
    permission_classes = [CanInfer]

    def post(self, request: Request, pk: int) -> Response:
        """Nothing where it has ended."""
        making.own(request.user, pk).cancel()
        return Response(whole_json(making.own(request.user, pk)))
