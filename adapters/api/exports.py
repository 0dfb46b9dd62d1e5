"""Adapters that leave: `/api/lora/models/{id}/export`, as they are stored, for whoever may see them; merged into their
base (`/api/lora/models/{id}/merges`, `/api/lora/merges`), for operators."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Literal

from django.conf import settings
from django.http import Http404
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _
from pydantic import Field
from rest_framework import status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import IsOperator
from adapters import jobs
from adapters.exports import merging, shelf, stored, zipped
from adapters.models import JobState, Merge, MergeType
from common.answers import Answer, one_of, page_of
from common.api import ApiError, Pagination
from common.numbers import grouped
from common.parsers import BoundedJSONParser
from common.shapes import Shape, read

from .downloads import AnyAccept, download
from .present import Reason, failure_json
from .views import actor, api_errors, one

ZIP, BYTES = "application/zip", "application/octet-stream"


class NewMerge(Shape):
    dtype: Literal["base", "fp32"] = Field(
        "base", description="Of the result's numbers: as the base has them, or fp32."
    )


class MergedFile(Answer):
    name: str
    size: int
    sha256: str


class MergeAnswer(Answer):
    id: int
    adapter: int | None = Field(description="Its id; null once it was forgotten.")
    adapter_name: str
    digest: str = Field(description="Of the adapter.")
    base: str
    dtype: Annotated[str, one_of(MergeType.values)]
    state: Annotated[str, one_of(JobState.values)]
    progress: float = Field(description="0 to 1.")
    size_bytes: int
    files: list[MergedFile]
    failure: Reason | None
    created_at: datetime.datetime
    ended_at: datetime.datetime | None


MergePage = page_of(MergeAnswer, "MergePage")


def merge_json(merge: Merge) -> dict[str, Any]:
    failure = failure_json(merge.failure_code, merge.failure_details)
    return MergeAnswer.of(merge, adapter=merge.adapter_id, base=merge.base_name, failure=failure)


@contextmanager
def export_errors() -> Iterator[None]:
    try:
        with api_errors():
            yield
    except merging.NotActiveError:
        raise not_active() from None
    except merging.QuotaError as error:
        text = _(
            "Merged models may take %(quota)s bytes in all, of which %(used)s are in use; this one takes %(wanted)s. "
            "Delete merged models that are no longer needed."
        )
        values = {
            "quota": grouped(settings.EXPORT_QUOTA_BYTES),
            "used": grouped(error.used),
            "wanted": grouped(error.wanted),
        }
        raise ApiError("export_quota", text % values, 409) from None
    except merging.NoSpaceError:
        raise ApiError(
            "export_no_space", _("The server's disk has no room for the merged model."), 503, retry_after=60
        ) from None


def not_active() -> ApiError:
    text = _("Only an active adapter can be exported: activate it first, so that its files are checked and copied.")
    return ApiError("not_active", text, 409)


class ExportView(AnyAccept, APIView):
    """As stored, in PEFT's form, as a zip."""

    permission_classes = [IsAuthenticated]

    def get(self, request: Request, pk: int) -> HttpResponseBase:
        adapter = one(request, pk)
        if not adapter.digest:
            raise not_active()
        held = ExitStack()
        try:
            with export_errors():
                entries = stored.entries(adapter.digest, adapter.slug, held)
            name = f"{adapter.slug}-{adapter.digest[:12]}.zip"
            tag = f"{adapter.digest}-{hashlib.sha256(adapter.slug.encode()).hexdigest()[:12]}"
            response = download(request, zipped.layout(entries), name, tag, ZIP, held)
        except BaseException:
            held.close()
            raise
        response.headers["X-Adapter-Digest"] = adapter.digest
        return response


class AdapterMergesView(APIView):
    permission_classes = [IsOperator]
    parser_classes = [BoundedJSONParser]

    def get(self, request: Request, pk: int) -> Response:
        adapter = one(request, pk)
        return _page(request, self, adapter.merges.all())

    def post(self, request: Request, pk: int) -> Response:
        """202: it is under way."""
        adapter = one(request, pk)
        body = read(NewMerge, request.data)
        with export_errors():
            merge = merging.begin(adapter, actor(request), body.dtype)
        return Response(merge_json(merge), status=status.HTTP_202_ACCEPTED)


class MergesView(APIView):
    permission_classes = [IsOperator]

    def get(self, request: Request) -> Response:
        return _page(request, self, Merge.objects.all())


def _page(request: Request, view: APIView, rows: Any) -> Response:
    jobs.end_interrupted(Merge, merging.INTERRUPTED)
    shelf.sweep()
    pages = Pagination()
    page = pages.paginate_queryset(rows, request, view=view)
    return pages.get_paginated_response([merge_json(merge) for merge in page or []])


def _one(pk: int) -> Merge:
    jobs.end_interrupted(Merge, merging.INTERRUPTED)
    found = Merge.objects.filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


class MergeView(APIView):
    permission_classes = [IsOperator]

    def get(self, request: Request, pk: int) -> Response:
        return Response(merge_json(_one(pk)))

    def delete(self, request: Request, pk: int) -> Response:
        """202 where it runs: it ends within seconds. Else it is removed with its files."""
        merge = _one(pk)
        if jobs.cancel(merge):
            return Response(merge_json(_one(pk)), status=status.HTTP_202_ACCEPTED)
        shelf.remove(_one(pk))
        return Response(status=status.HTTP_204_NO_CONTENT)


class MergeDownloadView(AnyAccept, APIView):
    """The whole folder as a zip."""

    permission_classes = [IsOperator]

    def get(self, request: Request, pk: int) -> HttpResponseBase:
        merge = _done(pk)
        folder = f"{merge.slug}-merged"
        held = ExitStack()
        try:
            entries = [_entry(merge, file, f"{folder}/{file['name']}", held) for file in merge.files]
            return download(request, zipped.layout(entries), f"{folder}.zip", merge.folder, ZIP, held)
        except BaseException:
            held.close()
            raise


class MergeFileView(AnyAccept, APIView):
    """One file of it."""

    permission_classes = [IsOperator]

    def get(self, request: Request, pk: int, name: str) -> HttpResponseBase:
        merge = _done(pk)
        file = next((file for file in merge.files if file["name"] == name), None)
        if file is None:
            raise Http404
        held = ExitStack()
        try:
            return download(request, [_entry(merge, file, name, held)], name, file["sha256"], BYTES, held)
        except BaseException:
            held.close()
            raise


def _done(pk: int) -> Merge:
    merge = _one(pk)
    if merge.state != JobState.DONE:
        raise ApiError("not_done", _("There is no merged model: merging has not ended, or did not succeed."), 409)
    return merge


def _entry(merge: Merge, file: dict[str, Any], name: str, held: ExitStack) -> zipped.Entry:
    """Raises Http404 where the folder is gone, or is not what was written."""
    try:
        with shelf.made() as root, root.below(merge.folder) as place:
            descriptor = place.open(file["name"])
    except OSError:
        raise Http404 from None
    held.callback(os.close, descriptor)
    if os.fstat(descriptor).st_size != file["size"]:
        raise Http404
    return zipped.Entry(name, file["size"], file["crc32"], descriptor=descriptor)
