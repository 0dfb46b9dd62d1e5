"""The registry's pages for people."""

from __future__ import annotations

import hashlib
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.paginator import Page, Paginator
from django.db.models import Case, Count, F, IntegerField, Max, Q, Value, When, Window
from django.db.models.functions import RowNumber
from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.shortcuts import get_object_or_404, render
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from adapters.models.adapter import AdapterQuerySet

from .details import files_of, layer_map
from .failures import render as explain
from .models import BaseModel, LoraAdapter, Scan, ScanState, Status, TrainingFacts
from .services import latest_scan

PAGE_SIZE = 50
MOST_EVENTS = 50
MOST_UNFOLD_CHARS = 1000
ORDERINGS = {
    "name": ("name", "id"),
    "-name": ("-name", "-id"),
    "status": ("status", "name", "id"),
    "-status": ("-status", "name", "id"),
    "size": ("size_bytes", "id"),
    "-size": ("-size_bytes", "-id"),
    "rank": ("rank", "id"),
    "-rank": ("-rank", "-id"),
    "found": ("created_at", "id"),
    "-found": ("-created_at", "-id"),
}
# Which member stands for its run: the run's own result, else its best checkpoint, else its last.
HEAD_ORDER = (
    Case(
        When(checkpoint=None, then=Value(0)),
        When(is_best=True, then=Value(1)),
        default=Value(2),
        output_field=IntegerField(),
    ),
    "-checkpoint",
    "id",
)


@login_required
@require_safe
def models(request: HttpRequest) -> HttpResponse:
    """The list of adapters, one row a training run; `?unfold=1,2` shows the checkpoints below these rows too.

    With the header `X-Fragment` only the list itself, or 304 where nothing changed.
    """
    visible = LoraAdapter.objects.visible_to(request.user)
    version = _version(request, visible)
    if request.headers.get("X-Fragment"):
        if request.headers.get("If-None-Match", "").removeprefix("W/") == version:  # weak once it was compressed
            return HttpResponseNotModified()
        response = render(request, "adapters/_list.html", _listing(request, visible))
    else:
        response = render(request, "adapters/models.html", _listing(request, visible))
    response.headers["ETag"] = version
    response.headers["Cache-Control"] = "private, no-cache"
    return response


@login_required
@require_safe
def model(request: HttpRequest, pk: int) -> HttpResponse:
    """One adapter: facts, training, layers, effect, files, history, how to call it."""
    visible = LoraAdapter.objects.visible_to(request.user)
    adapter = get_object_or_404(visible.select_related("base", "duplicate_of").prefetch_related("tags"), pk=pk)
    facts = TrainingFacts.objects.filter(adapter=adapter).first()
    siblings = visible.filter(group_hash=adapter.group_hash).exclude(group_hash="").order_by("checkpoint", "id")
    operator = request.user.is_staff
    return render(
        request,
        "adapters/model.html",
        {
            "adapter": adapter,
            "facts": facts.summary if facts else {},
            "curve": facts.curve if facts and len(facts.curve) > 1 else [],
            "siblings": [other for other in siblings[:100] if len(siblings) > 1],
            "layers": layer_map(adapter),
            "files": files_of(adapter),
            "remarks": [(code, explain(code, {})) for code in adapter.flags],
            "events": adapter.events.all()[:MOST_EVENTS] if operator else [],
            "bases": BaseModel.objects.all() if operator else [],
        },
    )


def _listing(request: HttpRequest, visible: AdapterQuerySet) -> dict[str, Any]:
    search = request.GET.get("search", "").strip()[:100]
    status = request.GET.get("status", "")
    status = status if status in Status.values else ""
    ordering = request.GET.get("ordering", "")
    ordering = ordering if ordering in ORDERINGS else ""
    found = visible
    if search:
        words = (
            Q(name__icontains=search)
            | Q(slug__icontains=search)
            | Q(path__icontains=search)
            | Q(base_name_recorded__icontains=search)
            | Q(base__name__icontains=search)
            | Q(tags__name__icontains=search)
        )
        found = found.filter(pk__in=visible.filter(words).values("pk"))
    counts = {row["status"]: row["n"] for row in found.order_by().values("status").annotate(n=Count("pk"))}
    if status:
        found = found.filter(status=status)
    grouped = not (search or status)
    if grouped:
        found = _heads(found)
    found = found.select_related("base").prefetch_related("tags").order_by(*ORDERINGS[ordering or "-found"])
    page = Paginator(found, PAGE_SIZE).get_page(request.GET.get("page"))
    unfolded = _unfolded(request)
    if grouped:
        _attach_checkpoints(page, visible, unfolded)
    return {
        "page": page,
        "search": search,
        "status": status,
        "ordering": ordering or "-found",
        "filters": _filters(counts),
        "total": sum(counts.values()),
        "bases": BaseModel.objects.annotate(adapter_count=Count("adapters")) if request.user.is_staff else [],
        "scan": _running_scan() if request.user.is_staff else None,
        "roots": settings.LORA_ROOTS if request.user.is_staff else [],
        "bases_dir": settings.BASE_MODELS_DIR if request.user.is_staff else "",
        "registry_empty": not search and not status and not counts,
    }


def _running_scan() -> Scan | None:
    latest = latest_scan()
    return latest if latest is not None and latest.state == ScanState.RUNNING else None


def _filters(counts: dict[str, int]) -> list[tuple[str, str, int]]:
    return [
        ("", _("All"), sum(counts.values())),
        ("active", _("Active"), counts.get("active", 0)),
        ("discovered", _("Discovered"), counts.get("discovered", 0)),
        ("failed", _("Failed"), counts.get("failed", 0)),
    ]


def _heads(adapters: AdapterQuerySet) -> AdapterQuerySet:
    """One adapter of each training run; adapters that belong to no run stand for themselves."""
    itself = Case(When(group_hash="", then=F("pk")), default=Value(0), output_field=IntegerField())
    place = Window(RowNumber(), partition_by=[F("group_hash"), itself], order_by=HEAD_ORDER)
    return adapters.filter(pk__in=adapters.annotate(place=place).filter(place=1).values("pk"))


def _unfolded(request: HttpRequest) -> set[int]:
    """Ids of the rows whose checkpoints are shown."""
    words = request.GET.get("unfold", "")[:MOST_UNFOLD_CHARS].split(",")
    return {int(word) for word in words if word.isascii() and word.isdigit()}


def _attach_checkpoints(page: Page[LoraAdapter], visible: AdapterQuerySet, unfolded: set[int]) -> None:
    """Give each adapter of the page the number of the other members of its run, and how many of them are active;
    those that are unfolded the members themselves (`checkpoints`), in the order of training."""
    runs = {head.group_hash for head in page if head.group_hash}
    others = visible.filter(group_hash__in=runs).exclude(pk__in=[head.pk for head in page]).order_by()
    counted = others.values("group_hash").annotate(n=Count("pk"), active=Count("pk", filter=Q(status=Status.ACTIVE)))
    counts = {row["group_hash"]: row for row in counted}
    open_runs: dict[str, list[LoraAdapter]] = {head.group_hash: [] for head in page if head.pk in unfolded}
    if open_runs:
        members = others.filter(group_hash__in=open_runs).select_related("base").prefetch_related("tags")
        for member in members.order_by("checkpoint", "name"):
            open_runs[member.group_hash].append(member)
    for head in page:
        head.others = counts.get(head.group_hash)  # type: ignore[attr-defined]
        head.checkpoints = open_runs.get(head.group_hash, [])  # type: ignore[attr-defined]


def _version(request: HttpRequest, visible: AdapterQuerySet) -> str:
    """Changes whenever the list would look different to this reader."""
    adapters = visible.aggregate(Max("updated_at"), Count("pk"))
    scan = Scan.objects.values_list("pk", "state", "done", "total").first() if request.user.is_staff else None
    bases = BaseModel.objects.aggregate(Max("updated_at"), Count("pk"))
    facts = repr((adapters, scan, bases, request.get_full_path(), get_language(), request.user.pk))
    return '"' + hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()[:32] + '"'
