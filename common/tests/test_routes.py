from __future__ import annotations

import pytest
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, get_resolver

from common.routes import optional_slash


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@pytest.mark.parametrize("route", ["models", "models/", "/models/"])
def test_two_spellings_one_name(route: str) -> None:
    bare, slashed = optional_slash(route, view, "models")
    assert bare.resolve("models") and slashed.resolve("models/")
    assert bare.name == "models" and slashed.name is None


def test_the_empty_route_has_one() -> None:
    with pytest.raises(ValueError, match="empty"):
        optional_slash("/", view)


def addresses(patterns: list[URLPattern | URLResolver], start: str = "") -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        route = start + str(pattern.pattern)
        found += addresses(pattern.url_patterns, route) if isinstance(pattern, URLResolver) else [route]
    return found


def test_every_address_has_its_twin() -> None:
    """Of pages and API alike; the admin keeps Django's own habits, and files are files."""
    routes = set(addresses(get_resolver().url_patterns)) - {""}
    alone = {
        route
        for route in routes
        if not route.startswith(("admin/", "i18n/")) and not route.endswith((".html", ".js", ".ico"))
        if (route.rstrip("/") if route.endswith("/") else f"{route}/") not in routes
    }
    assert not alone
