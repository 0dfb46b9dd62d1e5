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
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from adapters.models.adapter import AdapterQuerySet

from .cards import card_of
from .curves import RECENT, curve_of, is_recent
from .details import files_of, layer_map, promotion_of, prompting_of, repair_view, unknown_keys_of
from .discovery.passed_over import passed_over
from .failures import render as explain
from .hub import hosts
from .identifiers import UNKNOWN
from .listing import Wanted
from .models import BaseModel, LoraAdapter, Scan, ScanState, Status, Tag, TrainingFacts
from .services import latest_scan

PAGE_SIZE = 50
MOST_EVENTS = 50
MOST_SIBLINGS = 100
MOST_UNFOLD_CHARS = 1000
MOST_ASKED = 20  # runs whether they are trained just now
TRAINING_SECONDS = 20  # until what is said of a running training is out of date
MOST_TAGS = 200  # in the filter
ORDERINGS = {
    "name": ("name", "id"),
    "status": ("status", "name", "id"),
    "base": ("base__name", "base_name_recorded", "name", "id"),
    "size": ("size_bytes", "id"),
    "rank": ("rank", "id"),
    "loss": ("loss", "id"),
    "effect": ("effect_changed", "id"),
    "trained": ("trained_at", "id"),
    "found": ("created_at", "id"),
}
DEFAULT_ORDERING = "-trained"
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
    visible = visible.apart()
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
    curve = curve_of(adapter)
    members = visible.filter(group_hash=adapter.group_hash).exclude(group_hash="").order_by("checkpoint", "id")
    siblings = list(members[:MOST_SIBLINGS])
    operator = request.user.is_staff
    return render(
        request,
        "adapters/model.html",
        {
            "adapter": adapter,
            "facts": facts.summary if facts else {},
            "curve": curve.told(adapter) if len(curve.points) > 1 or curve.state == "training" else None,
            "siblings": siblings if len(siblings) > 1 else [],
            "layers": layer_map(adapter),
            "prompting": prompting_of(adapter),
            "promotion": promotion_of(adapter),
            "files": files_of(adapter),
            "card": card_of(adapter),
            "unknown_keys": unknown_keys_of(adapter),
            "repair": repair_view(adapter) if operator else None,
            "remarks": [(code, explain(code, {})) for code in adapter.flags],
            "also_at": places_of([adapter]).get(adapter.pk, []) if operator else [],
            "events": adapter.events.all()[:MOST_EVENTS] if operator else [],
            "bases": BaseModel.objects.all() if operator else [],
        },
    )


def _listing(request: HttpRequest, visible: AdapterQuerySet) -> dict[str, Any]:
    asked = Wanted.of(request.GET)
    ordering = request.GET.get("ordering", "")
    ordering = ordering if ordering.removeprefix("-") in ORDERINGS else DEFAULT_ORDERING
    found = asked.narrow(visible)
    counts = {row["status"]: row["n"] for row in found.order_by().values("status").annotate(n=Count("pk"))}
    if asked.status:
        found = found.filter(status=asked.status)
    heads = _heads(found).select_related("base").prefetch_related("tags").order_by(*_columns(ordering))
    page = Paginator(heads, PAGE_SIZE).get_page(request.GET.get("page"))
    _attach_checkpoints(page, found, _unfolded(request))
    _attach_training(page)
    if request.user.is_staff:
        _attach_twins(page)
    return {
        "page": page,
        "wanted": asked,
        "search": asked.search,
        "status": asked.status,
        "ordering": ordering,
        "default_ordering": DEFAULT_ORDERING,
        "filters": _filters(counts),
        "total": sum(counts.values()),
        "known_bases": BaseModel.objects.filter(pk__in=visible.order_by().values("base")),
        "known_tags": Tag.objects.filter(pk__in=visible.order_by().values("tags"))[:MOST_TAGS],
        "bases": BaseModel.objects.annotate(adapter_count=Count("adapters")) if request.user.is_staff else [],
        "scan": _running_scan() if request.user.is_staff else None,
        "passed_over": passed_over() if request.user.is_staff else None,
        "roots": [r for r in settings.LORA_ROOTS if r != settings.UPLOADS_DIR] if request.user.is_staff else [],
        "hub": hosts.hub_name() if hosts.is_on() and request.user.is_staff else "",
        "bases_dir": settings.BASE_MODELS_DIR if request.user.is_staff else "",
        "scan_interval": settings.SCAN_INTERVAL,
        "registry_empty": not asked.any and not counts,
    }


def _columns(ordering: str) -> list[Any]:
    """What has no value comes last either way."""
    down = ordering.startswith("-")
    columns = [F(name) for name in ORDERINGS[ordering.removeprefix("-")]]
    return [one.desc(nulls_last=True) if down else one.asc(nulls_last=True) for one in columns]


def _running_scan() -> Scan | None:
    """The scan that a person waits for: one that was asked for, or the first of all."""
    latest = latest_scan()
    if latest is None or latest.state != ScanState.RUNNING:
        return None
    is_awaited = latest.actor_id is not None or not Scan.objects.filter(state=ScanState.DONE).exists()
    return latest if is_awaited else None


def _filters(counts: dict[str, int]) -> list[tuple[str, str, int]]:
    return [
        ("", _("All"), sum(counts.values())),
        ("active", _("Active"), counts.get("active", 0)),
        ("discovered", _("Discovered"), counts.get("discovered", 0)),
        ("failed", _("Failed"), counts.get("failed", 0)),
    ]


def _heads(adapters: AdapterQuerySet) -> AdapterQuerySet:
    """One adapter of each training run; adapters that belong to no run stand for themselves."""
    place = Window(RowNumber(), partition_by=[F("group_hash")], order_by=HEAD_ORDER)
    members = adapters.exclude(group_hash="").annotate(place=place)  # ranked alone: there may be many others
    return adapters.filter(Q(group_hash="") | Q(pk__in=members.filter(place=1).values("pk")))


def _unfolded(request: HttpRequest) -> set[int]:
    """Ids of the rows whose checkpoints are shown."""
    words = request.GET.get("unfold", "")[:MOST_UNFOLD_CHARS].split(",")
    return {int(word) for word in words if word.isascii() and word.isdigit()}


def _attach_checkpoints(page: Page[LoraAdapter], found: AdapterQuerySet, unfolded: set[int]) -> None:
    """Give each adapter of the page the number of the other members of its run that were found, and how many of them
    are active; those that are unfolded the members themselves (`checkpoints`), in the order of training."""
    runs = {head.group_hash for head in page if head.group_hash}
    others = found.filter(group_hash__in=runs).exclude(pk__in=[head.pk for head in page]).order_by()
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


def _attach_training(page: Page[LoraAdapter]) -> None:
    """Give the runs of the page that are trained just now how far they are (`training_now`)."""
    for head in [head for head in page if is_recent(head)][:MOST_ASKED]:
        curve = curve_of(head)
        head.training_now = curve if curve.state == "training" else None  # type: ignore[attr-defined]


def _attach_twins(page: Page[LoraAdapter]) -> None:
    """Give the adapters of the page the other folders that hold the same (`also_at`)."""
    shown = [row for head in page for row in (head, *getattr(head, "checkpoints", ()))]
    twins = places_of(shown)
    for row in shown:
        row.also_at = twins.get(row.pk, [])  # type: ignore[attr-defined]


def places_of(rows: list[LoraAdapter]) -> dict[int, list[str]]:
    """For each row the places of its twins: other rows of the same files, in other runs."""
    keys = {row.content_key for row in rows} - {"", UNKNOWN}
    same: dict[str, list[LoraAdapter]] = {}
    for row in LoraAdapter.objects.filter(content_key__in=keys, missing=False).order_by("pk"):
        same.setdefault(row.content_key, []).append(row)
    found = {}
    for row in rows:
        twins = [twin for twin in same.get(row.content_key, []) if twin.group_hash != row.group_hash]
        alike = [twin for twin in twins if twin.checkpoint == row.checkpoint]  # else a run's end, which says the same
        found[row.pk] = [twin.path_label for twin in alike or twins]
    return found


def _version(request: HttpRequest, visible: AdapterQuerySet) -> str:
    """Changes whenever the list would look different to this reader."""
    adapters = visible.aggregate(Max("updated_at"), Count("pk"))
    scan = _running_scan() if request.user.is_staff else None
    under_way = (scan.pk, scan.done, scan.total) if scan is not None else None
    done = Scan.objects.filter(state=ScanState.DONE).values_list("notes").first()  # what it passed over is shown
    bases = BaseModel.objects.aggregate(Max("updated_at"), Count("pk"))
    now = timezone.now()
    trains = visible.filter(trained_at__gt=now - RECENT).exists()  # how far a training is changes by itself
    adapters["while_training"] = int(now.timestamp() // TRAINING_SECONDS) if trains else 0
    facts = repr((adapters, under_way, done, bases, request.get_full_path(), get_language(), request.user.pk))
    return '"' + hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()[:32] + '"'
