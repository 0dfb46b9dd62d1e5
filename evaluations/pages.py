from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.text import get_text_list
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from accounts.decorators import operator_required
from adapters.models import LoraAdapter, Tag
from adapters.training.steps import step_of
from inference.pages import targets

from . import sets
from .api.parity import rows_of
from .api.sets import search_of, set_json, wanted_version
from .checks.judging import sentence
from .checks.shapes import MOST_CHECKS, TITLES
from .gates import keeping, standing
from .items import exported
from .models import Duel, Gate, Item, Outcome, PromptSet, Result, Run
from .parity import making as parity_making
from .parity.verdict import ARRIVES, parity_json
from .parity.verdict import whole_json as whole_parity
from .runs import curve, figures, making
from .runs.duels import making as duels
from .runs.duels import outside, tables

PAGE_SIZE = 50
TABLE_SIZE = 25
MOST_FAILED = 20  # samples of a parity report that could not be measured, which are named
MOST_NOTICES = 20
MOST_NAMES = 300  # of runs and of tags that a form offers


@login_required
@require_safe
@never_cache
@ensure_csrf_cookie
def runs(request: HttpRequest) -> HttpResponse:
    """One's evaluations and those that others share, newest first."""
    rows = Run.objects.visible_to(request.user).select_related("owner", "version__prompts")
    page = Paginator(rows.prefetch_related("targets"), TABLE_SIZE).get_page(request.GET.get("page"))
    counts = figures.counts_of(list(page))
    listed = [(run, figures.run_json(run, request.user, counts[run.pk])) for run in page]
    return render(request, "evaluations/runs.html", {"page": page, "listed": listed})


@login_required
@require_safe
@ensure_csrf_cookie
def new_run(request: HttpRequest) -> HttpResponse:
    """Choose a set and models. `?set=`: its id; `?models=`: slugs; `?run_of=`: an adapter whose run's checkpoints."""
    wanted = [slug for slug in request.GET.get("models", "")[:4000].split(",") if slug][: settings.EVALUATION_TARGETS]
    member = request.GET.get("run_of", "")
    if member.isdecimal() and len(member) < 19:
        adapter = LoraAdapter.objects.visible_to(request.user).filter(pk=int(member)).exclude(group_hash="").first()
        wanted += making.members_of(request.user, adapter.pk)[: settings.EVALUATION_TARGETS] if adapter else []
    inactive = LoraAdapter.objects.visible_to(request.user).filter(slug__in=wanted)
    context = {
        **targets(request, wanted),
        "sets": sets_with_items(request.user),
        "set": request.GET.get("set", "")[:20],
        "chosen": wanted,
        "known": [{"slug": one.slug, "name": one.name, "active": one.status == "active"} for one in inactive],
        "most": settings.EVALUATION_TARGETS,
        "max_tokens_limit": settings.MAX_TOKENS_LIMIT,
    }
    return render(request, "evaluations/new.html", context)


@login_required
@require_safe
@never_cache
@ensure_csrf_cookie
def run(request: HttpRequest, pk: int) -> HttpResponse:
    """A run as a table, item by item; `?show=` disagree, failed or errors narrows it, `?search=` looks for a text."""
    found = making.visible(request.user, pk)
    kind = request.GET.get("show", "")
    kind = kind if kind in figures.FILTERS else ""
    search = search_of(request)
    page = Paginator(figures.items_of(found, kind, search), TABLE_SIZE).get_page(request.GET.get("page"))
    columns = list(found.targets.all())
    cells = figures.cells_of(found, list(page))
    whole = figures.whole_json(found, request.user)
    for target in whole["targets"]:
        if rate := target["pass_rate"]:
            target["width"] = rate["high"] - rate["low"]
    context = {
        "run": found,
        "whole": whole,
        "scored": any(target["loss"] for target in whole["targets"]),
        "columns": columns,
        "page": page,
        "rows": [_row(item, [cells[item.pk].get(target.pk) for target in columns]) for item in page],
        "show": kind,
        "search": search,
        "kinds": [
            ("", _("All")),
            ("disagree", _("Where they disagree")),
            ("failed", _("Failed")),
            ("errors", _("No answer")),
        ],
        "mine": found.owner_id == request.user.pk,
        "changes": figures.differences(found),
        "curves": [_with_equals(group) for group in curve.curves(found)],
    }
    part = "evaluations/_run.html" if request.headers.get("X-Part") else "evaluations/run.html"
    return render(request, part, context)


def sets_with_items(user: Any) -> Any:
    """That one may choose from."""
    rows = PromptSet.objects.visible_to(user).filter(size__gt=0).order_by("name")
    return rows[: 2 * settings.EVALUATION_SETS]


def _with_equals(group: dict[str, Any]) -> dict[str, Any]:
    """With the steps that nothing decides between, as a list for a sentence."""
    equal = group["best"]["equal"] if group["best"] else []
    steps = [str(point["step"]) for point in group["points"] if point["target"] in equal]
    return {**group, "equal_steps": get_text_list(steps, _("and"))}


def _row(item: Item, cells: list[Result | None]) -> dict[str, Any]:
    """The item with its cells; those differ whose verdict, or without any whose text, is not the first one's."""
    settled = [cell for cell in cells if cell is not None]
    differs = len({cell.passed for cell in settled}) > 1
    if not differs and settled and settled[0].passed is None:
        differs = len({cell.answer.text if cell.answer else None for cell in settled}) > 1
    shown = [
        cell and {"cell": cell, "reasons": [said for one in cell.verdicts if (said := sentence(one))]} for cell in cells
    ]
    return {"item": item, "cells": shown, "differs": differs}


@login_required
@require_safe
@never_cache
@ensure_csrf_cookie
def parities(request: HttpRequest) -> HttpResponse:
    """One's parity reports, newest first; `?adapter=`: those of one, and a form for the next."""
    page = Paginator(rows_of(request), TABLE_SIZE).get_page(request.GET.get("page"))
    pk = request.GET.get("adapter", "")
    adapter = None
    if pk.isdecimal() and len(pk) < 19:
        adapter = LoraAdapter.objects.visible_to(request.user).select_related("base").filter(pk=int(pk)).first()
    step = step_of(adapter) if adapter else None
    context = {
        "page": page,
        "listed": [parity_json(report, report.done) for report in page],
        "adapter": adapter,
        "step": step,
        "recorded": parity_making.recorded_of(adapter, step) if adapter else {},
        "precisions": parity_making.offered(adapter) if adapter else [],
        "sets": sets_with_items(request.user),
    }
    return render(request, "evaluations/parities.html", context)


@login_required
@require_safe
@never_cache
@ensure_csrf_cookie
def parity(request: HttpRequest, pk: int) -> HttpResponse:
    """A report: the verdict, the losses, the first token that differs."""
    found = parity_making.own(request.user, pk)
    whole = whole_parity(found)
    failed = found.samples.exclude(code="").select_related("item").order_by("item__number")[:MOST_FAILED]
    context = {"report": found, "whole": whole, "arrives": whole["verdict"] in ARRIVES, "failed": failed}
    part = "evaluations/_parity.html" if request.headers.get("X-Part") else "evaluations/parity.html"
    return render(request, part, context)


@login_required
@require_safe
@never_cache
@ensure_csrf_cookie
def head_to_head(request: HttpRequest, pk: int) -> HttpResponse:
    """What judges say of a run's answers. `?judged=` chooses one by its id, the newest without; `?outcome=` narrows."""
    found = making.visible(request.user, pk)
    several = duels.of_run(found)
    wanted = request.GET.get("judged", "")
    duel = next((one for one in several if str(one.pk) == wanted), several[0] if several else None)
    mine = found.owner_id == request.user.pk
    context = {"run": found, "duels": several, "duel": duel, "mine": mine, **(_duel(request, duel) if duel else {})}
    if request.headers.get("X-Part") and duel:
        return render(request, "evaluations/_duel.html", context)
    if mine:
        context |= {
            **targets(request),
            "judge": outside.name() if outside.is_configured() else "",
            "answered": [one for one in figures.targets_of(found) if one["done"] > one["errors"]],
            "most": settings.EVALUATION_COMPARISONS,
        }
    return render(request, "evaluations/head_to_head.html", context)


def _duel(request: HttpRequest, duel: Duel) -> dict[str, Any]:
    outcome = request.GET.get("outcome", "")
    outcome = outcome if outcome in Outcome.values else ""
    bouts = tables.bouts_of(duel, outcome)
    return {
        "facts": tables.duel_json(duel),
        "table": tables.table_of(duel),
        "page": Paginator(bouts, TABLE_SIZE).get_page(request.GET.get("page")),
        "outcome": outcome,
        "outcomes": [("", _("All")), (Outcome.TIE, _("Ties")), (Outcome.NONE, _("No verdict"))],
    }


@login_required
@require_safe
@never_cache
@ensure_csrf_cookie
def prompt_sets(request: HttpRequest) -> HttpResponse:
    """One's prompt sets and those that others share."""
    rows = PromptSet.objects.visible_to(request.user).select_related("owner")
    search = search_of(request)
    if search:
        rows = rows.filter(name__icontains=search)
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    return render(request, "evaluations/sets.html", {"page": page, "search": search})


@login_required
@require_safe
@never_cache
@ensure_csrf_cookie
def prompt_set(request: HttpRequest, pk: int) -> HttpResponse:
    """A set's items, of the newest version or of `?version=`; its owner edits those of the newest."""
    prompts = sets.visible(request.user, pk)
    version = sets.version_of(prompts, wanted_version(request))
    search = search_of(request)
    rows = version.items.filter(title__icontains=search) if search else version.items
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    mine = prompts.owner_id == request.user.pk
    context = {
        "prompts": prompts,
        "version": version,
        "versions": prompts.versions.all()[:50],
        "page": page,
        "items": [{"item": item, "checks": [_check_title(check) for check in item.checks]} for item in page],
        "contents": {item.number: exported(item) for item in page},
        "search": search,
        "mine": mine,
        "editable": mine and version.number == prompts.version,
        "runs": Run.objects.filter(version__prompts=prompts).count() if mine else 0,
        "set": set_json(prompts, request.user),
        "kinds": [{"kind": kind, "title": str(title)} for kind, title in TITLES.items()],
        "most_checks": MOST_CHECKS,
    }
    return render(request, "evaluations/set.html", context)


def _check_title(check: dict[str, Any]) -> str:
    value = check.get("value") or check.get("script") or ""
    if check["kind"] == "length":
        unit = {"characters": _("characters"), "words": _("words"), "lines": _("lines")}[
            check.get("unit", "characters")
        ]
        value = f"{check.get('least', 0)}–{check.get('most', '∞')} {unit}"
    if check["kind"] == "loss" and "most" in check:
        value = f"≤ {check['most']}"
    return f"{TITLES[check['kind']]}: {value[:60]}" if value else str(TITLES[check["kind"]])


@operator_required
@require_safe
@never_cache
@ensure_csrf_cookie
def gates(request: HttpRequest) -> HttpResponse:
    """What families of adapters have to show before one of them becomes active."""
    rows = Gate.objects.select_related("prompts", "owner")
    context = {"rows": [_gate_row(gate) for gate in rows], **_gate_form(request)}
    return render(request, "evaluations/gates.html", context)


@operator_required
@require_safe
@never_cache
@ensure_csrf_cookie
def gate(request: HttpRequest, pk: int) -> HttpResponse:
    """A gate with its verdicts, newest first, and what its webhook was told."""
    found = keeping.one(pk)
    page = Paginator(found.verdicts.select_related("adapter"), PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        **_gate_row(found),
        "page": page,
        "verdicts": [keeping.verdict_json(found, verdict) for verdict in page],
        "notices": [keeping.notice_json(notice) for notice in found.notices.all()[:MOST_NOTICES]],
        **_gate_form(request, found),
    }
    return render(request, "evaluations/gate.html", context)


def _gate_row(gate: Gate) -> dict[str, Any]:
    return {"gate": keeping.gate_json(gate), "kind": gate.get_kind_display(), "bar": standing.shown_bar(gate)}


def _gate_form(request: HttpRequest, gate: Gate | None = None) -> dict[str, Any]:
    """What the form offers: the reader's sets, and the one that the gate has."""
    sets_ = list(PromptSet.objects.visible_to(request.user).filter(size__gt=0).order_by("name")[:MOST_NAMES])
    if gate is not None and gate.prompts is not None and gate.prompts not in sets_:
        sets_.append(gate.prompts)
    runs_ = LoraAdapter.objects.exclude(run_name="").order_by("run_name").values_list("run_name", flat=True)
    return {
        "sets": sets_,
        "run_names": runs_.distinct()[:MOST_NAMES],
        "tag_names": Tag.objects.values_list("name", flat=True)[:MOST_NAMES],
        "least": f"{100 * gate.least:.6g}" if gate is not None and gate.least is not None else "",
        "may_tell": bool(settings.WEBHOOK_HOSTS),
        "max_tokens_limit": settings.MAX_TOKENS_LIMIT,
    }
