"""The pages in a real browser: the keyboard alone, what plain users see, changes made elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.people import PASSWORD
from tests.fixtures.portal import Portal, make_old, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ANSWER_MS = 120_000  # the engine starts and loads its model on the first question


@pytest.fixture(scope="module")
def ready(portal: Portal) -> Portal:
    """A portal whose `first` adapter alone is active."""
    assert portal.api("POST", "/api/lora/scan").status == 200
    for slug, action in (("first", "activate"), ("second", "deactivate")):
        assert portal.api("POST", f"/api/lora/models/{id_of(portal, slug)}/{action}").status == 200
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


def test_monitoring_of_a_loaded_engine_fits_a_phone(ready: Portal, sign_in: Callable[..., Any]) -> None:
    assert ready.api("POST", "/api/inference/load", {"model": "first"}, timeout=ANSWER_MS / 1000).status == 200
    page = sign_in(ready, "operator", viewport={"width": 390, "height": 844})
    page.goto("/monitoring")
    page.locator("[data-memory] progress").first.wait_for()
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} px wider than the screen"


def test_plain_users_see_what_is_active_and_no_switches(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    row_of(page, "first").wait_for()
    assert row_of(page, "second").count() == 0
    for name in (
        "scan-button",
        "activate-button",
        "deactivate-button",
        "delete-button",
        "select",
        "bulk",
        "base-row",
        "filter-failed",
    ):
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


@pytest.mark.parametrize(
    ("locale", "twenty", "soon", "minutes"),
    [("en-US", "about 20 s", "a few seconds", "about 3 min"), ("zh-CN", "还需约 20 秒", "还需几秒", "还需约 3 分钟")],
)
def test_what_waits_says_for_how_long(
    ready: Portal, sign_in: Callable[..., Any], locale: str, twenty: str, soon: str, minutes: str
) -> None:
    page = sign_in(ready, locale=locale)
    asked: list[tuple[Any, str]] = []
    page.route_web_socket(
        "**/ws/generate", lambda socket: socket.on_message(lambda text: asked.append((socket, json.loads(text)["id"])))
    )
    page.goto("/test?model=first")
    page.get_by_test_id("prompt-input").fill("Hello")
    page.get_by_test_id("send-button").click()
    state = page.get_by_test_id("state")
    page.locator("[data-running=true]").wait_for()
    wait_for(lambda: page.evaluate("1") and asked)

    def tell(**frame: Any) -> None:
        socket, request = asked[0]
        socket.send(json.dumps({"id": request, "target": "first", **frame}))

    queued = {"type": "queued", "position": 2, "reason": "batch_full", "detail": {"running": 1}}
    for seconds, words in ((20, twenty), (2, soon), (185, minutes)):
        tell(**queued, expected=seconds)
        state.filter(has_text=words).wait_for()
    tell(**queued)
    state.filter(has_not_text=minutes).wait_for()
    tell(type="loading", stage="weights", progress=0.4, name="tiny", expected=21)
    state.filter(has_text=twenty).wait_for()
    tell(type="token", index=0, text="Hi")
    state.filter(has_not_text=twenty).wait_for()


def test_checkpoints_come_when_their_run_is_unfolded(
    ready: Portal, sign_in: Callable[..., Any], tiny_adapter: Callable[..., Path]
) -> None:
    run = ready.var_dir / "adapters" / "voyage"
    for folder in (run, run / "checkpoint-5", run / "checkpoint-10"):
        tiny_adapter(folder, seed=9)
    make_old(run)
    assert ready.api("POST", "/api/lora/scan").json()["new"] == 3
    page = sign_in(ready)
    page.locator("html[data-ready]").wait_for()
    rows = page.locator("[data-parent]")
    assert rows.count() == 0
    unfold = page.get_by_test_id("unfold")
    unfold.press("Enter")
    rows.nth(1).wait_for()
    assert [row.get_attribute("data-name") for row in rows.all()] == ["voyage/checkpoint-5", "voyage/checkpoint-10"]
    assert unfold.get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.activeElement.dataset.testid") == "unfold"
    page.reload()
    rows.nth(1).wait_for()
    page.locator("html[data-ready]").wait_for()
    unfold.click()
    rows.first.wait_for(state="detached")
    page.wait_for_url("**/models")


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


def test_the_python_call_works_as_it_stands(ready: Portal, sign_in: Callable[..., Any]) -> None:
    pytest.importorskip("openai")
    page = sign_in(ready, "operator")
    page.goto(f"/models/{id_of(ready, 'first')}")
    program = page.locator("#code-python").text_content()
    environment = {**os.environ, "LORA_PORTAL_TOKEN": ready.token("owner"), "no_proxy": "*"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_link_to_a_long_prompt_opens_and_shows_what_it_says(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner", permissions=["clipboard-read", "clipboard-write"])
    page.goto("/test?model=first")
    page.locator("html[data-ready=true]").wait_for()
    prompt = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002" * 900
    page.get_by_test_id("prompt-input").fill(prompt)
    page.locator("[name=temperature]").fill("0.4")
    page.locator("[data-permalink]").click()
    page.get_by_test_id("toast").wait_for()
    link = page.evaluate("() => navigator.clipboard.readText()")
    page.locator("#system").evaluate("field => (field.value = 'left over')")
    page.goto("/models")
    assert page.goto(link).status == 200
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_test_id("prompt-input").input_value() == prompt
    assert page.locator("[name=temperature]").input_value() == "0.4"
    assert page.locator("#system").input_value() == ""


def test_forgetting_many_asks_first(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "operator")
    page.locator("html[data-ready=true]").wait_for()
    row_of(page, "second").get_by_test_id("select").check()
    page.get_by_test_id("bulk-all").click()
    assert page.locator("[data-select]:checked").count() == page.get_by_test_id("model-row").count() > 1
    page.locator("[data-bulk-clear]").click()
    row_of(page, "second").get_by_test_id("select").check()
    page.get_by_test_id("bulk-forget").click()
    page.keyboard.press("Escape")
    assert row_of(page, "second").count() == 1
    page.get_by_test_id("bulk-forget").click()
    page.get_by_test_id("forget-confirm").click()
    row_of(page, "second").wait_for(state="detached")
    assert ready.api("POST", "/api/lora/scan").status == 200
