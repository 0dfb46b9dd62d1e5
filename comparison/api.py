"""`/api/compare/...`: one's own votes on comparisons."""

from __future__ import annotations

import uuid
from typing import Any, cast

from django.contrib.auth.models import User
from django.http import Http404, StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import CanInfer
from common.api import Pagination

from . import bodies, export
from .flows import cast_vote, wanted
from .models import Vote
from .pairs import head_to_head_of
from .summary import Standings, standings


def own(request: Request, run: uuid.UUID) -> Vote:
    found = Vote.objects.of(request.user).filter(run=run).first()
    if found is None:
        raise Http404
    return found


class VotesView(APIView):
    """Newest first; `?search= ?model= ?kind=`."""

    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        rows = wanted(request.user, request.query_params).prefetch_related("candidates")
        pages = Pagination()
        page = pages.paginate_queryset(rows, request, view=self) or []
        return pages.get_paginated_response([export.vote_json(vote) for vote in page])


class VoteView(APIView):
    """The vote on one comparison, under the id that the client gave the comparison."""

    permission_classes = [CanInfer]

    def get(self, request: Request, run: uuid.UUID) -> Response:
        return Response(export.vote_json(own(request, run)))

    def put(self, request: Request, run: uuid.UUID) -> Response:
        vote, made = cast_vote(cast(User, request.user), run, bodies.vote(request.data))
        return Response(export.vote_json(vote), status=201 if made else 200)

    def delete(self, request: Request, run: uuid.UUID) -> Response:
        own(request, run).delete()
        return Response(status=204)


class VoteSummaryView(APIView):
    """Wins and losses by model and digest, of the votes that `?search= ?model= ?kind=` leave."""

    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        rows = standings(wanted(request.user, request.query_params))
        return Response(Standings.of(results=rows))


class VoteHeadToHeadView(APIView):
    """Who beats whom in the votes that `?search= ?model= ?kind=` leave."""

    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        return Response(head_to_head_of(wanted(request.user, request.query_params)).model_dump())


class VoteExportView(APIView):
    """The votes as a file, with the list's filters."""

    permission_classes = [CanInfer]

    def get(self, request: Request, kind: str) -> StreamingHttpResponse:
        votes = wanted(request.user, request.query_params)
        if kind == "jsonl":
            body: Any = export.written(votes, export.jsonl)
            response = StreamingHttpResponse(body, content_type="application/x-ndjson; charset=utf-8")
            name = "preferences.jsonl"
        else:
            body = export.written(votes, export.table, export.header())
            response = StreamingHttpResponse(body, content_type="text/csv; charset=utf-8")
            name = "votes.csv"
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        return response
