from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.views.decorators.cache import cache_control


def home(request: HttpRequest) -> HttpResponse:
    return redirect("models")


@cache_control(public=True, max_age=24 * 3600)
def favicon(request: HttpRequest) -> HttpResponse:
    """What browsers ask for where a page names no icon: the answers that are no pages of ours."""
    return redirect(static("img/favicon.ico"))


async def healthz(request: HttpRequest) -> JsonResponse:
    """Liveness: the process answers. Touches neither database nor engine."""
    return JsonResponse({"status": "ok"})


def styleguide(request: HttpRequest) -> HttpResponse:
    return render(request, "styleguide.html")
