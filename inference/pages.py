"""Pages that talk to models."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from accounts.decorators import operator_required
from adapters.models import BaseModel, LoraAdapter

from .models import UsageDay

USAGE_DAYS = 30
MOST_TARGETS = 1000  # in a select; the address can still name any other


def targets(wanted: str = "") -> dict[str, Any]:
    """What a reader may choose from: active adapters by name and usable base models. `wanted` is always among them."""
    active = LoraAdapter.objects.active().select_related("base").order_by("name", "slug")
    adapters = list(active[:MOST_TARGETS])
    if wanted and not any(adapter.slug == wanted for adapter in adapters):
        adapters[:0] = active.filter(slug=wanted)
    bases = [base for base in BaseModel.objects.order_by("name") if base.usable]
    for base in [*bases, *(adapter.base for adapter in adapters if adapter.base)]:
        # What the engine serves, not what the model could.
        base.served_context = min(base.context_length, settings.ENGINE_MAX_CONTEXT)  # type: ignore[attr-defined]
    return {"adapters": adapters, "bases": bases}


@login_required
@require_safe
@ensure_csrf_cookie
def test(request: HttpRequest) -> HttpResponse:
    """Ask one model one thing: parameters, streamed answer, timings. `?model=` chooses by slug."""
    wanted = request.GET.get("model", "")[:200]
    choice = targets(wanted)
    slugs = {adapter.slug for adapter in choice["adapters"]} | {base.slug for base in choice["bases"]}
    return render(
        request,
        "inference/test.html",
        {
            **choice,
            "wanted": wanted if wanted in slugs else "",
            "unknown": wanted if wanted and wanted not in slugs else "",
            "max_tokens_limit": settings.MAX_TOKENS_LIMIT,
            "max_prompt_chars": settings.MAX_PROMPT_CHARS,
        },
    )


@operator_required
@require_safe
def monitoring(request: HttpRequest) -> HttpResponse:
    """What the engine holds and does now (the page asks the API), and what each model was used for."""
    since = timezone.now().date() - timedelta(days=USAGE_DAYS - 1)
    sums = {name: Sum(name) for name in ("requests", "prompt_tokens", "completion_tokens", "cached_tokens")}
    usage = UsageDay.objects.filter(day__gte=since).values("model").annotate(**sums).order_by("-requests", "model")
    bases = [base for base in BaseModel.objects.order_by("name") if base.usable]
    return render(
        request, "inference/monitoring.html", {"bases": bases, "usage": list(usage[:100]), "usage_days": USAGE_DAYS}
    )
