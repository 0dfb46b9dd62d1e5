from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from inference.api.ws.frames import MAX_TARGETS
from inference.engine.recipes import MAX_MEMBERS
from inference.pages import targets

from .addresses import columns, columns_of, fits
from .flows import clean, models_of, named, wanted
from .models import Vote
from .pairs import head_to_head_of
from .summary import standings

PAGE_SIZE = 25


@login_required
@require_safe
def compare(request: HttpRequest) -> HttpResponse:
    """Ask several models, and blends of adapters, the same, side by side; `?models=` names them (addresses.py).

    `?vote=` names one's own vote, whose question it holds and whose models.
    """
    vote = named(request.user, request.GET.get("vote", ""))
    wished = columns_of(vote) if vote else columns(request.GET.get("models", ""))
    choice = targets(request, [slug for one in wished for slug in one.slugs])
    known = {one.slug: one for one in choice["choices"].all}
    active = [one for one in wished if all(slug in known for slug in one.slugs)]
    fit = [one for one in active if fits(one, known)]
    adapters = [one for one in choice["choices"].all if one.kind == "adapter"]
    bases = [one for one in choice["choices"].all if one.kind == "base"]
    first = [{"model": one.slug, "own": ""} for one in [*adapters[:2], *bases[:1]]]
    return render(
        request,
        "comparison/compare.html",
        {
            **choice,
            "chosen": [one.entry for one in fit[:MAX_TARGETS]] or first,
            "asked": {"prompt": vote.prompt, "system": vote.system, **vote.params} if vote else {},
            "unknown": ", ".join(one.text for one in wished if one not in active),
            "unfit": ", ".join(one.text for one in active if one not in fit),
            "beyond": ", ".join(known[one.model].name if one.model else one.text for one in fit[MAX_TARGETS:]),
            "most": MAX_TARGETS,
            "blends": settings.INFERENCE_BACKEND != "vllm",
            "most_members": MAX_MEMBERS,
            "votes": Vote.objects.of(request.user).count(),
            "max_tokens_limit": settings.MAX_TOKENS_LIMIT,
            "max_prompt_chars": settings.MAX_PROMPT_CHARS,
        },
    )


@login_required
@require_safe
@never_cache
def votes(request: HttpRequest) -> HttpResponse:
    """One's votes and what they come to; `?search= ?model= ?kind=` narrow both."""
    found = wanted(request.user, request.GET)
    page = Paginator(found.prefetch_related("candidates"), PAGE_SIZE).get_page(request.GET.get("page"))
    count = page.paginator.count
    context = {"page": page, "standings": standings(found), **_filters(request, count)}
    return render(request, "comparison/votes.html", context)


@login_required
@require_safe
@never_cache
def head_to_head(request: HttpRequest) -> HttpResponse:
    """Who beats whom in one's votes; `?search= ?model= ?kind=` narrow them."""
    found = wanted(request.user, request.GET)
    count = found.count()
    context = {"count": count, "table": head_to_head_of(found), **_filters(request, count)}
    return render(request, "comparison/head_to_head.html", context)


def _filters(request: HttpRequest, count: int) -> dict[str, Any]:
    """What the filters above a page are drawn with; `count`: of the votes that they leave."""
    kind = request.GET.get("kind", "")
    kept = request.GET.copy()
    kept.pop("page", None)
    return {
        "models": models_of(request.user),
        "search": clean(request.GET, "search", 200),
        "model": clean(request.GET, "model", 128),
        "kind": kind if kind in ("blind", "open") else "",
        "kinds": [("", _("All")), ("blind", _("Blind")), ("open", _("Not blind"))],
        "filters": kept.urlencode(),
        "any": count or Vote.objects.of(request.user).exists(),
    }


@login_required
@require_POST
def delete_vote(request: HttpRequest, run: uuid.UUID) -> HttpResponse:
    get_object_or_404(Vote.objects.of(request.user), run=run).delete()
    messages.success(request, _("Vote deleted."))
    query = request.GET.urlencode()
    return redirect(f"{reverse('votes')}?{query}" if query else "votes")
