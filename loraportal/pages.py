"""The page *Settings*: what is in force and where it comes from; read-only, for administrators."""

from __future__ import annotations

from django.core.checks import ERROR, CheckMessage, run_checks
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.decorators import administrator_required

from . import guide

MOST_SEARCH_CHARS = 100


@administrator_required
@never_cache
@require_safe
def settings_page(request: HttpRequest) -> HttpResponse:
    """`?search=` narrows by words, `?show=changed` to what has no default value."""
    search = request.GET.get("search", "").strip()[:MOST_SEARCH_CHARS]
    show = "changed" if request.GET.get("show") == "changed" else ""
    context = {"groups": guide.found(search, show == "changed"), "search": search, "show": show, "problems": problems()}
    return render(request, "settings.html", context)


def problems() -> list[tuple[bool, CheckMessage]]:
    """What `manage.py check --deploy` says of the settings: (whether it is an error, what), errors first."""
    told = run_checks(tags=["loraportal"], include_deployment_checks=True)
    return sorted(((one.level >= ERROR, one) for one in told), key=lambda pair: (not pair[0], str(pair[1].id)))
