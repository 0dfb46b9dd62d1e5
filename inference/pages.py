"""Pages that talk to models."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from adapters.models import BaseModel, Scan, ScanState
from adapters.services import latest_scan

from .choices import choices
from .engine.recipes import MAX_MEMBERS


def targets(request: HttpRequest, wanted: Collection[str] = ()) -> dict[str, Any]:
    """What a page needs to have a model chosen: `choices`, the slugs `wanted` among them, and why there is none."""
    found = choices(request.user, wanted)
    return {"choices": found, "absence": "" if found.all else _absence()}


def _absence() -> str:
    """Why there is no model: looking (the first scan is under way), unscanned, unusable (bases were found), none."""
    latest = latest_scan()
    if latest is None:
        return "looking" if settings.SCAN_INTERVAL else "unscanned"
    if not Scan.objects.filter(state=ScanState.DONE).exists() and latest.state == ScanState.RUNNING:
        return "looking"
    return "unusable" if BaseModel.objects.filter(missing=False).exists() else "none"


@login_required
@require_safe
@ensure_csrf_cookie
def test(request: HttpRequest) -> HttpResponse:
    """Ask one model one thing: parameters, streamed answer, timings. `?model=` chooses by slug, `?blend=` names the
    adapters of a blend with their weights (slug:weight,slug:weight)."""
    wanted = request.GET.get("model", "")[:200]
    blend = [part.partition(":")[0] for part in request.GET.get("blend", "")[:2000].split(",")[:MAX_MEMBERS]]
    choice = targets(request, [wanted, *blend])
    slugs = {one.slug for one in choice["choices"].all}
    return render(
        request,
        "inference/test.html",
        {
            **choice,
            "wanted": wanted,
            "unknown": wanted if wanted and wanted not in slugs else "",
            "max_tokens_limit": settings.MAX_TOKENS_LIMIT,
            "max_prompt_chars": settings.MAX_PROMPT_CHARS,
            "blends": settings.INFERENCE_BACKEND != "vllm",
            "most": MAX_MEMBERS,
        },
    )


@login_required
@require_safe
@ensure_csrf_cookie
def monitoring(request: HttpRequest) -> HttpResponse:
    """What was asked over time, how long it took and why; for operators of everybody, and the engine as it is now."""
    bases = [base for base in BaseModel.objects.order_by("name") if base.usable] if request.user.is_staff else []
    return render(request, "inference/monitoring.html", {"bases": bases, "fleet": settings.INFERENCE_BACKEND == "vllm"})
