from __future__ import annotations

import uuid

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
from inference.pages import targets

from .flows import clean, models_of, wanted
from .models import Vote
from .summary import standings

PAGE_SIZE = 25


@login_required
@require_safe
def compare(request: HttpRequest) -> HttpResponse:
    """Ask several models the same, side by side. `?models=` names them by slug, separated by commas."""
    choice = targets()
    known = [adapter.slug for adapter in choice["adapters"]] + [base.slug for base in choice["bases"]]
    wanted = [slug for slug in request.GET.get("models", "").split(",") if slug in known]
    first = [adapter.slug for adapter in choice["adapters"][:2]] + [base.slug for base in choice["bases"][:1]]
    return render(
        request,
        "comparison/compare.html",
        {
            **choice,
            "chosen": list(dict.fromkeys(wanted))[:MAX_TARGETS] or first,
            "most": MAX_TARGETS,
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
    kind = request.GET.get("kind", "")
    kept = request.GET.copy()
    kept.pop("page", None)
    context = {
        "page": page,
        "standings": standings(found),
        "models": models_of(request.user),
        "search": clean(request.GET, "search", 200),
        "model": clean(request.GET, "model", 128),
        "kind": kind if kind in ("blind", "open") else "",
        "kinds": [("", _("All")), ("blind", _("Blind")), ("open", _("Open"))],
        "filters": kept.urlencode(),
        "any": page.paginator.count or Vote.objects.of(request.user).exists(),
    }
    return render(request, "comparison/votes.html", context)


@login_required
@require_POST
def delete_vote(request: HttpRequest, run: uuid.UUID) -> HttpResponse:
    get_object_or_404(Vote.objects.of(request.user), run=run).delete()
    messages.success(request, _("The vote is deleted."))
    query = request.GET.urlencode()
    return redirect(f"{reverse('votes')}?{query}" if query else "votes")
