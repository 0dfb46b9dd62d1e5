"""`/api/evaluations/sets`: one's own prompt sets and those that others share."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast

from django.contrib.auth.models import User
from django.http import Http404, HttpResponse
from django.utils.text import slugify
from pydantic import AfterValidator, Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import CanInfer
from common.api import Pagination
from common.shapes import CHARACTERS, Shape, Str, read, refuse
from common.turns import heavy
from evaluations import answers, sets
from evaluations.checks.shapes import read_checks
from evaluations.importing import read_file
from evaluations.items import Checks, GivenItems, exported, read_item
from evaluations.models import PromptSet, SetVersion

FORMULA = ("=", "+", "-", "@", "\t", "\r")
MAX_INT = 2**31 - 1


def one_line(value: str) -> str:
    value = value.strip()
    if not value:
        raise refuse("empty")
    if not value.isprintable():
        raise refuse("one_line")
    return value


Name = Annotated[str, Field(max_length=120), CHARACTERS, AfterValidator(one_line)]
Description = Annotated[str, Field(max_length=500), CHARACTERS]


class NewSet(Shape):
    name: Name
    description: Description = ""
    shared: bool = False
    items: Annotated[list[Any], Field(json_schema_extra={"items": {"type": "object"}})] = []


class SetChange(Shape):
    name: Name | None = None
    description: Description | None = None
    shared: bool | None = None


class ImportBody(Shape):
    text: Annotated[Str, Field(description="The file.")]
    format: Literal["auto", "jsonl", "csv"] = "auto"
    checks: Checks = []


class RemovalBody(Shape):
    numbers: Annotated[list[Annotated[int, Field(ge=1, le=MAX_INT)]], Field(min_length=1, max_length=200)]


def set_json(prompts: PromptSet, user: Any) -> dict[str, Any]:
    mine = prompts.owner_id == user.pk
    return answers.StoredSet.of(prompts, owner=prompts.owner.get_username(), mine=mine)


def search_of(request: Any) -> str:
    return str(request.GET.get("search", "")).strip()[:200].replace("\0", "")


def wanted_version(request: Any) -> int | None:
    """Of the query; None: the newest. Raises Http404."""
    text = str(request.GET.get("version", ""))
    if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Http404
    return int(text) if text else None


class SetsView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        rows = PromptSet.objects.visible_to(request.user).select_related("owner")
        if search := search_of(request):
            rows = rows.filter(name__icontains=search)
        pages = Pagination()
        page = pages.paginate_queryset(rows, request, view=self) or []
        return pages.get_paginated_response([set_json(row, request.user) for row in page])

    @heavy
    def post(self, request: Request) -> Response:
        given = read(NewSet, request.data)
        items = [read_item(one, f"items.{place}.") for place, one in enumerate(given.items)]
        user = cast(User, request.user)
        made = sets.create(user, given.name, given.description, given.shared, items)
        return Response(set_json(made, user), status=201)


class SetView(APIView):
    """Everybody reads a shared one; only its owner changes and deletes it."""

    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        return Response(set_json(sets.visible(request.user, pk), request.user))

    def patch(self, request: Request, pk: int) -> Response:
        prompts = sets.own(request.user, pk)
        changes = read(SetChange, request.data).model_dump(exclude_none=True)
        if changes:
            sets.describe(prompts, **changes)
        return Response(set_json(prompts, request.user))

    def delete(self, request: Request, pk: int) -> Response:
        sets.delete(sets.own(request.user, pk))
        return Response(status=204)


class VersionsView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        return Response(answers.Versions.of(results=sets.visible(request.user, pk).versions.all()[:200]))


class ItemsView(APIView):
    """Items of the newest version, or of `?version=`; `?search=` looks into what is asked."""

    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        version = sets.version_of(sets.visible(request.user, pk), wanted_version(request))
        rows = version.items
        if search := search_of(request):
            rows = rows.filter(title__icontains=search)
        pages = Pagination()
        page = pages.paginate_queryset(rows, request, view=self) or []
        response = pages.get_paginated_response([answers.StoredItem.of(row) for row in page])
        response.data |= {"version": version.number, "digest": version.digest}
        return response

    @heavy
    def post(self, request: Request, pk: int) -> Response:
        prompts = sets.own(request.user, pk)
        items = [read_item(one, f"items.{place}.") for place, one in enumerate(read(GivenItems, request.data).items)]
        return Response(answers.Changed.of(sets.add(prompts, items), added=len(items)), status=201)


class RemovalView(APIView):
    permission_classes = [CanInfer]

    def post(self, request: Request, pk: int) -> Response:
        prompts = sets.own(request.user, pk)
        numbers = read(RemovalBody, request.data).numbers
        return Response(answers.Changed.of(sets.remove(prompts, numbers)))


class ItemView(APIView):
    """One item of the newest version, or of `?version=`."""

    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int, number: int) -> Response:
        version = sets.version_of(sets.visible(request.user, pk), wanted_version(request))
        item = version.items.filter(number=number).first() if number <= MAX_INT else None
        if item is None:
            raise Http404
        return Response(answers.StoredItem.of(item))

    def put(self, request: Request, pk: int, number: int) -> Response:
        prompts = self.with_item(request, pk, number)
        return Response(answers.Changed.of(sets.replace(prompts, number, read_item(request.data))))

    def delete(self, request: Request, pk: int, number: int) -> Response:
        prompts = self.with_item(request, pk, number)
        sets.remove(prompts, [number])
        return Response(status=204)

    def with_item(self, request: Request, pk: int, number: int) -> PromptSet:
        """One's own set that has it. Raises Http404."""
        prompts = sets.own(request.user, pk)
        if number > MAX_INT or not sets.version_of(prompts).items.filter(number=number).exists():
            raise Http404
        return prompts


class ImportView(APIView):
    """A file comes whole or not at all; `line` of a refusal says where it is at fault."""

    permission_classes = [CanInfer]

    @heavy
    def post(self, request: Request, pk: int) -> Response:
        prompts = sets.own(request.user, pk)
        given = read(ImportBody, request.data)
        checks = read_checks(given.checks, "…")  # an entry without a reference is refused by its line
        items = read_file(given.text, given.format, checks)
        return Response(answers.Changed.of(sets.add(prompts, items), added=len(items)), status=201)


class ExportView(APIView):
    permission_classes = [CanInfer]

    @heavy
    def get(self, request: Request, pk: int, kind: str) -> HttpResponse:
        prompts = sets.visible(request.user, pk)
        version = sets.version_of(prompts, wanted_version(request))
        body = "".join(jsonl(version) if kind == "jsonl" else table(version))
        types = {"jsonl": "application/x-ndjson", "csv": "text/csv"}
        response = HttpResponse(body.encode("utf-8", "replace"), content_type=f"{types[kind]}; charset=utf-8")
        name = slugify(prompts.name)[:60] or f"prompts-{prompts.pk}"
        response["Content-Disposition"] = f'attachment; filename="{name}-v{version.number}.{kind}"'
        return response


def jsonl(version: SetVersion) -> Iterator[str]:
    """As it is imported again."""
    for item in version.items.iterator():
        yield json.dumps(exported(item), ensure_ascii=False) + "\n"


COLUMNS = ("number", "messages", "prompt", "reference", "checks")


def table(version: SetVersion) -> Iterator[str]:
    """For spreadsheets: messages and checks as JSON."""
    yield "\ufeff" + ",".join(COLUMNS) + "\r\n"
    for item in version.items.iterator():
        yield line([item.number, _json(item.messages), item.prompt or "", item.reference, _json(item.checks)])


def line(values: list[Any]) -> str:
    """A row of CSV. A spreadsheet would run what begins like a formula: a quotation mark before it disarms it."""
    text = io.StringIO()
    cells = [f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value for value in values]
    csv.writer(text, quoting=csv.QUOTE_ALL).writerow(cells)
    return text.getvalue()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if value else ""
