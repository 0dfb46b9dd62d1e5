"""axe-core finds nothing serious on any page, light and dark, in both languages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.fixtures.portal import Portal

pytestmark = [pytest.mark.browser, pytest.mark.slow]
GRAVE = {"serious", "critical"}
PAGES = ["/models", "/test", "/compare", "/compare/votes", "/chat", "/assistants", "/monitoring", "/tokens", "/account"]
PAGES += ["/prompts", "/prompts/new", "/nothing-here", "/evaluations", "/evaluations/new", "/evaluations/sets"]
PAGES += ["/evaluations/parity", "/compare/head-to-head"]


def grave(page: Any) -> list[str]:
    """What axe-core holds against a page, one line a rule with the first element at fault."""
    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in found if v["impact"] in GRAVE]


OFFICE = [
    "/people",
    "/people/new",
    "/people/2",
    "/settings",
    "/admin/",
    "/admin/auth/user/",
]


@pytest.mark.parametrize(("theme", "locale"), [("light", "en-US"), ("dark", "zh-CN")])
def test_no_serious_finding_on_any_page(
    portal: Portal, sign_in: Callable[..., Any], new_page: Callable[..., Any], theme: str, locale: str
) -> None:
    assert portal.api("POST", "/api/lora/scan").status == 200
    first = portal.api("GET", "/api/lora/models").json()["results"][0]["id"]
    entrance = new_page(base_url=portal.url, color_scheme=theme, locale=locale)
    entrance.goto("/login")
    findings = {"/login": grave(entrance)}
    page = sign_in(portal, "operator", color_scheme=theme, locale=locale)
    items = [{"prompt": "ahoy", "reference": "ahoy", "checks": [{"kind": "equals"}]}]
    prompts = portal.api("POST", "/api/evaluations/sets", {"name": f"set {theme}", "items": items}).json()["id"]
    portal.api("POST", f"/api/lora/models/{first}/activate")
    target = portal.api("GET", f"/api/lora/models/{first}").json()["slug"]
    made = portal.api("POST", "/api/evaluations/runs", {"prompts": prompts, "targets": [target]}).json()
    bar = {"kind": "run", "name": f"run {theme}", "prompts": prompts, "least": 0.9}
    gate = f"/evaluations/gates/{portal.api('POST', '/api/evaluations/gates', bar).json()['id']}"
    own = [f"/models/{first}", f"/evaluations/sets/{prompts}", f"/evaluations/runs/{made['id']}", gate]
    for path in [*PAGES, "/evaluations/gates", *own]:
        page.goto(path)
        findings[path] = grave(page)
    office = sign_in(portal, "admin", color_scheme=theme, locale=locale)
    for path in OFFICE:
        office.goto(path)
        findings[path] = grave(office)
        assert office.locator("html").get_attribute("lang") == ("zh-hans" if locale == "zh-CN" else "en"), path
    assert not {path: found for path, found in findings.items() if found}
