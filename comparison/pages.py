from __future__ import annotations

import uuid

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from .flows import clean, models_of, wanted
from .models import Vote
from .summary import standings

PAGE_SIZE = 25


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
