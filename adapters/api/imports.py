"""`/api/lora/imports`: adapters by name from a hub, where HUB_IMPORT is on. Operators only, each sees the own ones."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from django.db.models import QuerySet
from django.http import Http404
from django.utils.translation import gettext as _
from pydantic import AfterValidator, Field
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import IsOperator
from adapters import jobs
from adapters.hub import hosts, importing, names
from adapters.models import HubImport, JobState
from common.answers import Answer, one_of, page_of
from common.api import ApiError, Pagination
from common.parsers import BoundedJSONParser
from common.shapes import NotEmpty, Shape, Str, read

from .present import Reason, failure_json
from .uploads import account, upload_errors
from .views import actor, api_errors

SHOWN = 20  # adapters of one import that an answer lists
AN_HOUR = 3600.0


class NewImport(Shape):
    repo: Annotated[Str, Field(max_length=1000), AfterValidator(str.strip), NotEmpty] = Field(
        description="owner/name, as the hub has it."
    )
    revision: Annotated[Str, Field(max_length=1000), AfterValidator(str.strip)] = Field(
        names.DEFAULT_REVISION, description="A branch, a tag or a commit; what it is now is what is imported."
    )


class ImportedAdapter(Answer):
    id: int
    name: str


class ImportAnswer(Answer):
    id: int
    hub: str
    repo: str
    revision: str
    commit: str = Field(description="What the revision was when the import began; empty until the hub has said so.")
    state: Annotated[str, one_of(JobState.values)]
    progress: float = Field(description="0 to 1.")
    files: int = Field(validation_alias="file_count")
    size_bytes: int = Field(description="Of all files; 0 until the hub has said so.")
    received_bytes: int
    folder: str = Field(description="Where it lies now, below UPLOADS_DIR.")
    adapters: list[ImportedAdapter] = Field(description="What came of it.")
    failure: Reason | None
    created_at: datetime.datetime
    ended_at: datetime.datetime | None


ImportPage = page_of(ImportAnswer, "ImportPage")


def import_json(row: HubImport) -> dict[str, Any]:
    failure = failure_json(row.failure_code, row.failure_details)
    found = importing.adapters_of(row)[:SHOWN] if row.state == JobState.DONE else []
    return ImportAnswer.of(row, failure=failure, adapters=[ImportedAdapter.of(one) for one in found])


class ImportsView(APIView):
    permission_classes = [IsOperator]
    parser_classes = [BoundedJSONParser]

    def get(self, request: Request) -> Response:
        pages = Pagination()
        page = pages.paginate_queryset(_own(request), request, view=self)
        return pages.get_paginated_response([import_json(row) for row in page or []])

    def post(self, request: Request) -> Response:
        """202: it is under way."""
        asked = read(NewImport, request.data)
        if not hosts.is_on():
            raise ApiError("import_off", _("Importing from a hub is turned off on this portal (HUB_IMPORT)."), 409)
        if not names.is_repo(asked.repo):
            text = _("Enter a repository as owner/name, with letters, digits, “-”, “_” and “.”.")
            raise ApiError("import_repo_invalid", text, 400, "repo")
        revision = asked.revision or names.DEFAULT_REVISION
        if not names.is_revision(revision):
            text = _("Enter a revision as a branch, a tag or a commit, such as main.")
            raise ApiError("import_revision_invalid", text, 400, "revision")
        try:
            with api_errors(), upload_errors():
                row = importing.begin(actor(request), asked.repo, revision)
        except importing.TooManyError:
            text = _("You have begun too many imports within an hour. Try again later.")
            raise ApiError("import_throttled", text, 429, retry_after=AN_HOUR) from None
        return Response(import_json(row), status=status.HTTP_202_ACCEPTED)


def _own(request: Request) -> QuerySet[HubImport]:
    jobs.end_interrupted(HubImport, importing.INTERRUPTED)
    return HubImport.objects.filter(actor_id=account(request))


def _one(request: Request, pk: int) -> HubImport:
    found = _own(request).filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


class ImportView(APIView):
    permission_classes = [IsOperator]

    def get(self, request: Request, pk: int) -> Response:
        return Response(import_json(_one(request, pk)))

    def delete(self, request: Request, pk: int) -> Response:
        """202 where it runs: it ends within seconds. Else it leaves the list, with what is kept of an unfinished one;
        imported adapters stay."""
        row = _one(request, pk)
        if jobs.cancel(row):
            return Response(import_json(_one(request, pk)), status=status.HTTP_202_ACCEPTED)
        with upload_errors():
            importing.remove(_one(request, pk))
        return Response(status=status.HTTP_204_NO_CONTENT)
