"""The views: thin, everything is done by `adapters/services.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.http import Http404
from django.utils.translation import gettext as _
from rest_framework import serializers, status
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import Scope
from accounts.permissions import IsOperator, may
from adapters import services
from adapters.curves import curve_of
from adapters.details import repair_view
from adapters.failures import BusyError, Refused
from adapters.leases import adapter_lock, progress_of
from adapters.models import BaseModel, LoraAdapter, TrainingFacts
from adapters.models.adapter import AdapterQuerySet
from common.api import ApiError, Pagination

from .present import (
    BulkResults,
    RepairChange,
    RunCurve,
    Scan,
    ScanSummary,
    adapter_json,
    base_json,
    event_json,
    metrics_json,
    repair_json,
)
from .query import filtered


class AdapterPatch(serializers.Serializer[Any]):
    """What a PATCH may hold."""

    name = serializers.CharField(max_length=255, required=False)
    notes = serializers.CharField(max_length=20_000, required=False, allow_blank=True)
    slug = serializers.CharField(max_length=128, required=False)
    tags = serializers.ListField(
        child=serializers.CharField(max_length=64), max_length=32, required=False, allow_empty=True
    )
    base = serializers.CharField(max_length=128, required=False, allow_null=True)
    remember = serializers.BooleanField(required=False, default=True)


def busy_error(busy: BusyError) -> ApiError:
    texts = {
        "scan_running": _("A scan is already running."),
        "merge_running": _("Another adapter is being merged. Wait until that has ended, or cancel it."),
        "import_running": _("This repository is being imported already."),
        "imports_busy": _("Other imports are running. Wait until one has ended, or cancel one of yours."),
        "in_use": _(
            "The adapter is still finishing its running requests and accepts no new ones. Try again in a moment."
        ),
        "active": _("The adapter is active. Deactivate it first."),
        "repair_changed": _("The files, or what would be changed in them, are not those that were shown. Look again."),
    }
    return ApiError(
        busy.code,
        texts.get(busy.code, _("Another operation on this adapter is in progress. Try again in a moment.")),
        409,
    )


@contextmanager
def api_errors() -> Iterator[None]:
    """Exceptions of the services as errors of the API."""
    try:
        yield
    except LoraAdapter.DoesNotExist:
        raise Http404 from None
    except BusyError as busy:
        raise busy_error(busy) from None
    except Refused as refused:
        raise ApiError(refused.code, refused.message, 422) from None
    except services.NotConfirmed:
        text = _("To delete the files, enter the adapter's name in “confirm”.")
        raise ApiError("not_confirmed", text, 400, "confirm") from None
    except services.NothingToRepair:
        raise ApiError("nothing_to_repair", _("There is nothing to repair in this adapter's files."), 409) from None
    except services.SlugTaken:
        raise ApiError("slug_taken", _("This slug is already in use."), 409, "slug") from None
    except services.SlugInvalid:
        text = _(
            "A slug contains only lowercase letters, digits, “_”, “.” and “-”, and starts and ends with a "
            "letter or digit."
        )
        raise ApiError("invalid", text, 400, "slug") from None


def actor(request: Request) -> Any:
    """Who asks; the permissions have made sure that it is an account."""
    return request.user


def visible(request: Request) -> AdapterQuerySet:
    """What this account, through this token, may see."""
    rows = LoraAdapter.objects.visible_to(request.user)
    if not may(request.user, request.auth, Scope.OPERATE):
        rows = rows.active()
    return rows


def one(request: Request, pk: int) -> LoraAdapter:
    found = visible(request).select_related("base").prefetch_related("tags").filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


class ReadOrOperate(APIView):
    """Reading for any account, changing for operators."""

    def get_permissions(self) -> list[Any]:
        reading = self.request.method in ("GET", "HEAD", "OPTIONS")
        return [IsAuthenticated()] if reading else [IsOperator()]


class AdaptersView(ReadOrOperate):
    def get(self, request: Request) -> Response:
        rows = filtered(visible(request), request.query_params)
        pages = Pagination()
        page = pages.paginate_queryset(rows.select_related("base").prefetch_related("tags"), request, view=self)
        return pages.get_paginated_response([adapter_json(adapter) for adapter in page or []])


class AdapterView(ReadOrOperate):
    def get(self, request: Request, pk: int) -> Response:
        # `activation` is for whoever waits for an activation under way; a list would ask once a row.
        progress = progress_of(adapter_lock(pk))
        under_way = {"progress": round(progress, 3)} if progress is not None else None
        adapter = one(request, pk)
        found = repair_view(adapter, looks=False)
        repair = repair_json(found) if found is not None else None
        return Response(adapter_json(adapter, activation=under_way, repair=repair))

    def patch(self, request: Request, pk: int) -> Response:
        one(request, pk)
        body = AdapterPatch(data=request.data)
        body.is_valid(raise_exception=True)
        changes = dict(body.validated_data)
        remember = changes.pop("remember")
        with api_errors():
            if "base" in changes:
                services.set_base(pk, _base(changes.pop("base")), actor(request), remember)
            if changes:
                services.edit(pk, actor(request), **changes)
        return Response(adapter_json(one(request, pk)))

    def delete(self, request: Request, pk: int) -> Response:
        one(request, pk)
        with api_errors():
            if request.query_params.get("files", "") in {"1", "true"}:
                confirm = request.query_params.get("confirm", "")
                if isinstance(request.data, dict):
                    confirm = str(request.data.get("confirm", confirm))
                services.delete_files(pk, actor(request), confirm)
            else:
                services.forget(pk, actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


def _base(word: str | None) -> BaseModel | None:
    if not word:
        return None
    found = BaseModel.objects.filter(slug=word).first()
    if found is None and word.isdecimal() and len(word) < 19:
        found = BaseModel.objects.filter(pk=int(word)).first()
    if found is None:
        raise ApiError("invalid", _("Base model not found."), 400, "base")
    return found


def override_field() -> serializers.CharField:
    """The reason for an activation that a gate objects to: on one line, as history shows it."""
    return serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class ActivateBody(serializers.Serializer[Any]):
    override = override_field()


class ActivateView(APIView):
    permission_classes = [IsOperator]

    def post(self, request: Request, pk: int) -> Response:
        body = ActivateBody(data=_json_of(request))
        body.is_valid(raise_exception=True)
        with api_errors():
            services.activate(pk, actor(request), override=stated(body))
        return Response(adapter_json(one(request, pk)))


def _json_of(request: Request) -> Any:
    """This call needs no body: one of another kind, as browsers' forms send with every POST, says nothing."""
    try:
        return request.data
    except UnsupportedMediaType:
        return {}


def stated(body: serializers.Serializer[Any]) -> str:
    return " ".join(body.validated_data["override"].split())


class DeactivateView(APIView):
    permission_classes = [IsOperator]

    def post(self, request: Request, pk: int) -> Response:
        with api_errors():
            services.deactivate(pk, actor(request))
        return Response(adapter_json(one(request, pk)))


class RepairBody(serializers.Serializer[Any]):
    plan = serializers.CharField(max_length=64, required=False, allow_blank=True, default="")
    override = override_field()


class RepairView(APIView):
    """What a repair changes, page by page; POST agrees to it and activates the adapter from the repaired copy."""

    permission_classes = [IsOperator]

    def get(self, request: Request, pk: int) -> Response:
        found = repair_view(one(request, pk))
        changes: Any = found["all"] if found is not None else []
        pages = Pagination()
        page = pages.paginate_queryset(changes, request, view=self)
        answer = pages.get_paginated_response([RepairChange.of(change) for change in page or []])
        answer.data["repair"] = repair_json(found) if found is not None else None
        return answer

    def post(self, request: Request, pk: int) -> Response:
        one(request, pk)
        body = RepairBody(data=request.data)
        body.is_valid(raise_exception=True)
        with api_errors():
            services.repair(pk, actor(request), body.validated_data["plan"], override=stated(body))
        return Response(adapter_json(one(request, pk)))


class BulkBody(serializers.Serializer[Any]):
    action = serializers.ChoiceField(choices=["activate", "deactivate", "forget"])
    ids = serializers.ListField(child=serializers.IntegerField(min_value=1), min_length=1, max_length=200)
    override = override_field()


class BulkView(APIView):
    """One action on many adapters: 200 with a result for each, whatever became of the others."""

    permission_classes = [IsOperator]

    def post(self, request: Request) -> Response:
        body = BulkBody(data=request.data)
        body.is_valid(raise_exception=True)
        action = body.validated_data["action"]
        service: Callable[..., Any] = getattr(services, action)
        if action == "activate":
            service = partial(service, override=stated(body))
        results = [self._one(service, pk, request) for pk in dict.fromkeys(body.validated_data["ids"])]
        return Response(BulkResults.of(results=results))

    def _one(self, service: Callable[..., Any], pk: int, request: Request) -> dict[str, Any]:
        try:
            with api_errors():
                service(pk, request.user)
        except ApiError as error:
            return {"id": pk, "ok": False, "code": error.code, "message": error.message}
        except Http404:
            return {"id": pk, "ok": False, "code": "not_found", "message": _("The requested object was not found.")}
        return {"id": pk, "ok": True, "code": "", "message": ""}


class ScanView(APIView):
    permission_classes = [IsOperator]

    def get(self, request: Request) -> Response:
        """The latest scan, running or not; 404 where there was none."""
        latest = services.latest_scan()
        if latest is None:
            raise Http404
        return Response(Scan.of(latest))

    def post(self, request: Request) -> Response:
        with api_errors():
            return Response(ScanSummary.of(services.scan(actor(request))))


class EventsView(ReadOrOperate):
    def get(self, request: Request, pk: int) -> Response:
        adapter = one(request, pk)
        pages = Pagination()
        page = pages.paginate_queryset(adapter.events.all(), request, view=self)
        return pages.get_paginated_response([event_json(event) for event in page or []])


class AdapterMetricsView(ReadOrOperate):
    def get(self, request: Request, pk: int) -> Response:
        adapter = one(request, pk)
        facts = TrainingFacts.objects.filter(adapter=adapter).first()
        return Response(metrics_json(adapter, facts))


class RunCurveView(ReadOrOperate):
    def get(self, request: Request, pk: int) -> Response:
        """The curve of the adapter's run as its files are now."""
        adapter = one(request, pk)
        return Response(RunCurve.of(**curve_of(adapter).told(adapter)))


class BasesView(ReadOrOperate):
    def get(self, request: Request) -> Response:
        rows = BaseModel.objects.filter(missing=False)
        if not may(request.user, request.auth, Scope.OPERATE):
            rows = rows.filter(problem_code="")
        return Response({"count": len(rows), "results": [base_json(base) for base in rows]})
