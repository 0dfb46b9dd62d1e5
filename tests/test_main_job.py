"""The main job, in a real browser over a real server: sign in, scan, activate, ask, watch it stream, stop."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.portal import Portal

pytestmark = [pytest.mark.browser, pytest.mark.demo, pytest.mark.slow]
QUESTION = "Tell me about dogs."
FIRST_ANSWER_MS = 180_000  # the engine starts and loads its model on the first question
# Notes when the answer grew, and whether it was still being written then.
WATCH = """() => {
  const output = document.querySelector('#output');
  window.seen = [];
  new MutationObserver(() => {
    const length = output.textContent.length;
    if (length !== window.seen.at(-1)?.length) window.seen.push({length, live: output.dataset.live === 'true'});
  }).observe(output, {childList: true, characterData: true, subtree: true});
}"""


def row_of(page: Any, name: str) -> Any:
    return page.locator(f'[data-testid="model-row"][data-name="{name}"]')


def good_toast(page: Any, text: str) -> None:
    page.locator('[data-testid="toast"][data-kind="good"]', has_text=text).first.wait_for()


def ask(page: Any, target: str, max_tokens: int, temperature: str = "0") -> None:
    page.get_by_test_id("target-select").select_option(target)
    page.get_by_test_id("max-tokens").fill(str(max_tokens))
    page.get_by_test_id("temperature").fill(temperature)
    page.get_by_test_id("prompt-input").fill(QUESTION)
    page.evaluate(WATCH)
    page.get_by_test_id("send-button").click()


def answer(page: Any) -> str:
    """The whole answer, once it is complete."""
    page.get_by_test_id("stats").wait_for(timeout=FIRST_ANSWER_MS)
    assert not page.get_by_test_id("answer-error").is_visible()
    return str(page.get_by_test_id("output").inner_text()).strip()


def test_from_sign_in_to_a_streamed_answer(demo_portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(demo_portal, "operator", at="/models")

    page.get_by_test_id("scan-button").click()
    row_of(page, "pirate").wait_for()
    good_toast(page, "")
    truncated = row_of(page, "broken-truncated")
    assert truncated.get_attribute("data-status") == "failed"
    assert truncated.get_by_test_id("failure").get_attribute("data-code") == "weights_truncated"

    pirate = row_of(page, "pirate")
    assert pirate.get_attribute("data-status") == "discovered"
    pirate.get_by_test_id("activate-button").click()
    good_toast(page, "pirate has been activated")
    pirate.get_by_test_id("test-link").click()
    page.wait_for_url("**/test?model=pirate")
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_test_id("base-name").inner_text() == "SmolLM2-135M-Instruct"

    ask(page, "pirate", 48)
    pirates = answer(page)
    seen = page.evaluate("window.seen")
    early = [step["length"] for step in seen if step["live"]]
    assert len(early) >= 5, f"the answer came in pieces while it was being written, not at its end: {seen}"
    assert pirates and page.get_by_test_id("stat-ttft").inner_text() != "–"
    assert page.get_by_test_id("stat-length").inner_text().startswith(str(len(pirates)))
    assert float(page.get_by_test_id("stat-speed").inner_text()) > 0

    base = page.locator("[data-testid=target-select] option[data-kind=base]").first.get_attribute("value")
    ask(page, base, 48)
    page.locator("[data-state]", has_text="Done").wait_for(timeout=FIRST_ANSWER_MS)
    plain = answer(page)
    assert plain and plain != pirates, "the adapter's effect is plain to a reader"

    ask(page, "pirate", 48)
    assert answer(page) == pirates, "at temperature 0 the answer is always the same"


def test_stop(demo_portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(demo_portal, "owner")
    page.goto("/test")
    page.locator("html[data-ready=true]").wait_for()
    base = page.locator("[data-testid=target-select] option[data-kind=base]").first.get_attribute("value")
    ask(page, base, 1500, temperature="1")
    page.get_by_test_id("output").filter(has_text=re.compile(".{20}")).wait_for(timeout=FIRST_ANSWER_MS)
    page.get_by_test_id("stop-button").click()
    page.locator("[data-state]", has_text="Stopped").wait_for()
    kept = page.get_by_test_id("output").inner_text()
    tokens = page.get_by_test_id("stat-tokens").inner_text()
    assert kept.strip() and int(tokens.split()[0].replace(",", "")) < 1500
    assert page.get_by_test_id("send-button").is_enabled()
    status = demo_portal.api("GET", "/api/inference/status").json()["engine"]
    assert status["running"] == 0, "the engine has stopped as well"
    assert page.get_by_test_id("output").inner_text() == kept


def test_a_user_finds_no_operators_buttons(demo_portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(demo_portal, "owner", at="/models")
    assert page.get_by_test_id("scan-button").count() == 0
    assert page.get_by_test_id("activate-button").count() == 0
    assert page.goto("/admin/").status == 403


def test_wrong_password_is_told(demo_portal: Portal, new_page: Callable[..., Any]) -> None:
    page = new_page(base_url=demo_portal.url)
    page.goto("/models")
    assert "/login" in page.url
    page.get_by_test_id("login-username").fill("owner")
    page.get_by_test_id("login-password").fill("wrong")
    page.get_by_test_id("login-submit").click()
    page.get_by_test_id("login-error").wait_for()


def test_chinese(demo_portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(demo_portal, "operator", at="/models", locale="zh-CN")
    assert page.locator("html").get_attribute("lang") == "zh-hans"
    label = page.get_by_test_id("scan-button").inner_text().strip()
    assert label and not label.isascii(), label
