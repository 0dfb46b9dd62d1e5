"""The pages in a real browser: the keyboard alone, what plain users see, changes made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .fixtures.people import PASSWORD
from .fixtures.portal import Portal

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ANSWER_MS = 120_000  # the engine starts and loads its model on the first question


@pytest.fixture(scope="module")
def ready(portal: Portal) -> Portal:
    """A portal whose `first` adapter is active."""
    assert portal.api("POST", "/api/lora/scan").status == 200
    pk = id_of(portal, "first")
    assert portal.api("POST", f"/api/lora/models/{pk}/activate").status == 200
    return portal


def id_of(portal: Portal, slug: str) -> int:
    found = portal.api("GET", f"/api/lora/models?search={slug}").json()["results"]
    return next(int(row["id"]) for row in found if row["slug"] == slug)


def row_of(page: Any, slug: str) -> Any:
    return page.locator(f'[data-testid="model-row"][data-slug="{slug}"]')


def tab_to(page: Any, test_id: str) -> None:
    """Press Tab until the element with this test id has the focus."""
    for _press in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement?.dataset.testid") == test_id:
            return
    raise AssertionError(f"{test_id} cannot be reached by Tab")


def test_the_main_job_by_keyboard_alone(ready: Portal, new_page: Callable[..., Any]) -> None:
    page = new_page(base_url=ready.url)
    page.goto("/login")
    page.keyboard.type("operator")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/models")
    page.locator("html[data-ready=true]").wait_for()
    tab_to(page, "scan-button")
    page.keyboard.press("Enter")
    page.locator('[data-testid="toast"][data-kind="good"]').first.wait_for()
    page.get_by_test_id("test-link").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/test?model=*")
    page.locator("html[data-ready=true]").wait_for()
    assert page.evaluate("document.activeElement.id") == "prompt"  # one types at once
    page.keyboard.type("hello")
    page.keyboard.press("Control+Enter")
    page.get_by_test_id("stats").wait_for(timeout=ANSWER_MS)
    assert page.get_by_test_id("stat-reason").inner_text()


def test_plain_users_see_what_is_active_and_no_switches(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    row_of(page, "first").wait_for()
    assert row_of(page, "second").count() == 0
    for name in ("scan-button", "activate-button", "deactivate-button", "delete-button", "select", "bulk", "base-row"):
        assert page.get_by_test_id(name).count() == 0, name
    assert page.locator('.nav a[href="/monitoring"]').count() == 0
    assert page.goto("/monitoring").status == 403
    assert page.goto(f"/models/{id_of(ready, 'second')}").status == 404
    page.goto(f"/models/{id_of(ready, 'first')}")
    assert page.get_by_test_id("edit-form").count() == 0


def test_changes_made_elsewhere_appear_by_themselves(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "operator")
    row_of(page, "second").wait_for()
    before = row_of(page, "second").get_attribute("data-status")
    verb, after = ("deactivate", "discovered") if before == "active" else ("activate", "active")
    assert ready.api("POST", f"/api/lora/models/{id_of(ready, 'second')}/{verb}").status == 200
    page.locator(f'[data-testid="model-row"][data-slug="second"][data-status="{after}"]').wait_for()


def test_language_and_theme_are_remembered(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    page.get_by_test_id("language").click()
    page.wait_for_load_state()
    assert page.evaluate("document.documentElement.lang") == "zh-hans"
    assert page.get_by_role("heading", level=1).inner_text() == "模型管理"
    page.goto("/account")
    page.locator("[data-theme-set=dark]").click()
    page.goto("/test")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.goto("/account")
    page.locator("[data-theme-set=light]").click()
    page.goto("/test")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != ground


def test_a_refused_parameter_is_told_beside_it_and_the_text_stays(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    page.goto("/test?model=first&temperature=9&prompt=hello")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("send-button").click()
    page.locator("#error-temperature").wait_for()
    assert page.evaluate("document.activeElement.id") == "temperature"
    assert page.get_by_test_id("prompt-input").input_value() == "hello"
    page.get_by_test_id("temperature").fill("0")
    assert not page.locator("#error-temperature").is_visible()
