"""`/api/evaluations/runs`: one's own runs, and those that are shared together with their set."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, cast

from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.http import StreamingHttpResponse
from django.utils.text import slugify
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import ApiToken, Scope
from accounts.permissions import CanInfer, may
from common.api import Pagination
from common.shapes import Id, Shape
from evaluations import answers, sets
from evaluations.models import Run
from evaluations.runs import curve, export, figures, making, queue
from inference.engine.params import SamplingParams
from inference.params import ModelName, body

from .sets import search_of

KINDS = {
    "csv": (export.table, "text/csv"), "jsonl": (export.jsonl, "application/x-ndjson"),
    "md": (export.report, "text/markdown"),
}  # fmt: skip
Wanted = Annotated[list[ModelName], Field(description="Slugs of adapters and bases.")]


class NewRun(Shape):
    prompts: Annotated[Id, Field(description="Id of the prompt set.")]
    version: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="Without one: the newest.")] = None
    targets: Wanted = []
    run_of: Annotated[
        Id | None, Field(description="Id of an adapter: all checkpoints of its training run take part.")
    ] = None
    params: SamplingParams | None = None
    activates: Annotated[bool, Field(description="Whether inactive adapters are activated; needs an operator.")] = False
    shared: bool = False


class RunChange(Shape):
    shared: bool


def make(request: Any, data: Any) -> Run:
    """A run as the body says. Raises ApiError, Http404."""
    user = cast(User, request.user)
    given = body(NewRun, data)
    token = request.auth if isinstance(getattr(request, "auth", None), ApiToken) else None
    prompts = sets.visible(user, given.prompts)
    targets = [*given.targets, *(making.members_of(user, given.run_of) if given.run_of else ())]
    activates = given.activates and may(user, token, Scope.OPERATE)
    run = making.create(
        user, sets.version_of(prompts, given.version), targets, given.params, activates, given.shared,
        token.pk if token else 0,
    )  # fmt: skip
    queue.wake()
    return run


class RunsView(APIView):
    """Newest first; `?prompts=` those of one set."""

    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        rows = Run.objects.visible_to(request.user).select_related("owner", "version__prompts")
        prompts = request.GET.get("prompts", "")
        if prompts:
            rows = (
                rows.filter(version__prompts=int(prompts)) if prompts.isdecimal() and len(prompts) < 19 else rows.none()
            )
        pages = Pagination()
        page = pages.paginate_queryset(rows, request, view=self) or []
        counts = figures.counts_of(page)
        return pages.get_paginated_response([figures.run_json(run, request.user, counts[run.pk]) for run in page])

    def post(self, request: Request) -> Response:
        return Response(figures.whole_json(make(request, request.data), request.user), status=201)


class RunView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        return Response(figures.whole_json(making.visible(request.user, pk), request.user))

    def patch(self, request: Request, pk: int) -> Response:
        run = making.own(request.user, pk)
        run.shared = body(RunChange, request.data).shared
        run.save(update_fields=["shared"])
        return Response(figures.whole_json(run, request.user))

    def delete(self, request: Request, pk: int) -> Response:
        making.delete(making.own(request.user, pk))
        return Response(status=204)


class CancelView(APIView):
    permission_classes = [CanInfer]

    def post(self, request: Request, pk: int) -> Response:
        """Nothing where it has ended."""
        run = making.own(request.user, pk)
        run.cancel()
        return Response(figures.whole_json(making.own(request.user, pk), request.user))


class AgainView(APIView):
    """The same models with the set's newest version: what was answered before is not asked again."""

    permission_classes = [CanInfer]

    def post(self, request: Request, pk: int) -> Response:
        run = making.own(request.user, pk)
        data = {
            "prompts": run.version.prompts_id, "targets": [*run.targets.values_list("slug", flat=True)],
            "params": run.params, "activates": run.activates, "shared": run.shared,
        }  # fmt: skip
        return Response(figures.whole_json(make(request, data), request.user), status=201)


class ResultsView(APIView):
    """The run's items with what each model came to; `?show=` disagree, failed or errors and `?search=` narrow them."""

    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        run = making.visible(request.user, pk)
        kind = request.GET.get("show", "")
        rows = figures.items_of(run, kind if kind in figures.FILTERS else "", search_of(request))
        pages = Pagination()
        page = pages.paginate_queryset(rows, request, view=self) or []
        return pages.get_paginated_response(figures.rows_json(run, page))


class CurveView(APIView):
    """The pass rate by training step, of each training run that takes part with several checkpoints."""

    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        return Response(answers.Curves.of(results=curve.curves(making.visible(request.user, pk))))


class RunExportView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int, kind: str) -> StreamingHttpResponse:
        run = making.visible(request.user, pk)
        write, media = KINDS[kind]
        body = _encoded(write(run))
        response: Any = StreamingHttpResponse(body, content_type=f"{media}; charset=utf-8")
        name = slugify(run.version.prompts.name)[:60] or "evaluation"
        response["Content-Disposition"] = f'attachment; filename="{name}-{run.pk}.{kind}"'
        return response


async def _encoded(parts: Iterator[str]) -> AsyncIterator[bytes]:
    """A few items at a time: a whole run may hold more than memory should."""
    following = database_sync_to_async(lambda: next(parts, None))
    while (part := await following()) is not None:
        yield part.encode("utf-8", "replace")
