from __future__ import annotations

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from . import answers
from .flows import MAX_NAME, visible, wanted
from .models import PARTS, SavedPrompt

PAGE_SIZE = 24


@login_required
@require_safe
@never_cache
@ensure_csrf_cookie
def prompts(request: HttpRequest) -> HttpResponse:
    """The library: one's own entries and the shared ones; `?search= ?part= ?whose=` narrow it, wrong ones do not."""
    user_id = request.user.pk or 0
    search = request.GET.get("search", "")[:200].strip()
    part = request.GET.get("part", "") if request.GET.get("part") in PARTS else ""
    whose = request.GET.get("whose", "") if request.GET.get("whose") in ("mine", "others") else ""
    found = wanted(user_id, {"search": search, "part": part, "whose": whose})
    page = Paginator(found, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "entries": [answers.listed(row, user_id) for row in page],
        "search": search,
        "part": part,
        "whose": whose,
        "owners": [("", _("All")), ("mine", _("Mine")), ("others", _("Shared by others"))],
        "kinds": [("", _("All parts")), *part_names().items()],
        "any": page.paginator.count or SavedPrompt.objects.visible_to(user_id).exists(),
    }
    return render(request, "prompts/prompts.html", context)


def part_names() -> dict[str, str]:
    return {"system": _("System prompt"), "prompt": _("Prompt"), "params": _("Parameters")}


@login_required
@require_safe
@never_cache
@ensure_csrf_cookie
def prompt(request: HttpRequest, pk: int | None = None) -> HttpResponse:
    """A new entry, one of one's own to change, or one that somebody shares to read."""
    user_id = request.user.pk or 0
    entry = answers.whole(visible(user_id, pk), user_id) if pk is not None else None
    context = {
        "entry": entry,
        "readonly": entry is not None and not entry["mine"],
        "max_name": MAX_NAME,
        "max_prompt_chars": settings.MAX_PROMPT_CHARS,
    }
    return render(request, "prompts/prompt.html", context)
