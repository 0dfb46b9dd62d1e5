from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render


def home(request: HttpRequest) -> HttpResponse:
    return redirect("models")


async def healthz(request: HttpRequest) -> JsonResponse:
    """Liveness: the process answers. Touches neither database nor engine."""
    return JsonResponse({"status": "ok"})


def styleguide(request: HttpRequest) -> HttpResponse:
    return render(request, "styleguide.html")
