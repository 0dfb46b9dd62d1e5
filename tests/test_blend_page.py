"""The blend on the test page and in a comparison, in a real browser: sliders, numbers, keyboard, the address, votes,
saving it as an adapter."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.portal import Portal

from .test_accessibility import grave

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ANSWER_MS = 120_000  # the engine starts and loads its model on the first question


@pytest.fixture(scope="module")
def ready(portal: Portal) -> Portal:
    """A portal whose two adapters are active."""
    assert portal.api("POST", "/api/lora/scan").status == 200
    for row in portal.api("GET", "/api/lora/models").json()["results"]:
        assert portal.api("POST", f"/api/lora/models/{row['id']}/activate").status == 200
    return portal


def opened(page: Any, address: str = "/test?model=first") -> None:
    page.goto(address)
    page.locator("html[data-ready=true]").wait_for()


def send(page: Any) -> None:
    page.get_by_test_id("prompt-input").fill("hello")
    page.get_by_test_id("max-tokens").fill("8")
    page.get_by_test_id("temperature").fill("0")
    page.get_by_test_id("send-button").click()
    page.locator("form[data-running=true]").wait_for()
    page.locator("form[data-running=false]").wait_for(timeout=ANSWER_MS)


def add_second(page: Any) -> None:
    page.get_by_test_id("blend").locator("summary").click()
    page.get_by_test_id("blend-add-picker").fill("second")
    page.locator("[role=option]").first.wait_for()
    page.keyboard.press("Enter")
    page.get_by_test_id("blend-part").nth(1).wait_for()


def test_a_blend_is_made_with_the_keyboard_and_answers(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    opened(page)
    assert page.get_by_test_id("blend-save").count() == 0  # an operator's
    add_second(page)
    weights, ranges = page.get_by_test_id("blend-weight"), page.get_by_test_id("blend-range")
    weights.nth(0).fill("0.7")
    assert ranges.nth(0).input_value() == "0.7"
    ranges.nth(1).focus()
    page.keyboard.press("ArrowLeft")
    assert weights.nth(1).input_value() == "0.95"
    assert page.get_by_test_id("blend-recipe").inner_text() == "0.7 × first + 0.95 × second"
    send(page)
    assert page.get_by_test_id("answer-recipe").inner_text() == "Answered by the blend 0.7 × first + 0.95 × second"
    assert page.get_by_test_id("answer-error").is_hidden()
    # The address says it all, and a link leads back to it.
    assert "blend=first%3A0.7%2Csecond%3A0.95" in page.url
    page.reload()
    page.locator("html[data-ready=true]").wait_for()
    assert [field.input_value() for field in page.get_by_test_id("blend-weight").all()] == ["0.7", "0.95"]
    weights.nth(1).fill("3")
    page.get_by_test_id("send-button").click()
    assert "between −2 and 2" in page.get_by_test_id("blend-error").inner_text()
    page.get_by_test_id("blend-remove").click()
    weights.nth(0).fill("1")
    assert page.get_by_test_id("blend-recipe").inner_text() == "" and "blend=" not in page.url
    send(page)
    assert page.get_by_test_id("answer-recipe").is_hidden()


def test_a_base_model_is_no_part(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    opened(page, "/test?model=tiny-llama")
    assert page.get_by_test_id("blend").is_hidden()
    opened(page)
    page.get_by_test_id("blend").locator("summary").click()
    page.get_by_test_id("blend-add-picker").fill("tiny-llama")
    page.locator("[role=option]").first.wait_for()
    page.keyboard.press("Enter")
    assert "Only adapters" in page.get_by_test_id("blend-error").inner_text()
    assert page.get_by_test_id("blend-part").count() == 1


def compared(page: Any) -> None:
    """Send, and wait until every column has ended."""
    page.get_by_test_id("prompt-input").fill("hello")
    page.get_by_test_id("max-tokens").fill("8")
    page.get_by_test_id("temperature").fill("0")
    page.get_by_test_id("send-button").click()
    page.locator("[data-columns][aria-busy=false]").wait_for(timeout=ANSWER_MS)  # true since the button was pressed


def test_a_blend_is_a_column_of_a_comparison(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "teammate")
    opened(page, "/compare?models=first")
    page.get_by_test_id("compare-add-blend").press("Enter")
    dialog = page.get_by_test_id("blend-column")
    dialog.get_by_test_id("blend-done").click()
    assert "needs two adapters" in dialog.get_by_test_id("blend-error").inner_text()
    for slug in ("first", "second"):
        dialog.get_by_test_id("blend-add-picker").fill(slug)
        dialog.locator(f"[role=option][data-slug={slug}]").wait_for()
        page.keyboard.press("Enter")
    weights = dialog.get_by_test_id("blend-weight")
    weights.nth(1).wait_for()
    weights.nth(0).fill("0.7")
    weights.nth(1).fill("-0.25")
    assert not grave(page)
    weights.nth(1).press("Enter")
    chips = page.get_by_test_id("chip").locator(".cut")
    recipe = "0.7 × first + -0.25 × second"
    assert [chip.get_attribute("title") for chip in chips.all()] == ["first", recipe]
    assert page.url.endswith("?models=first,first:0.7+second:-0.25")

    compared(page)
    titles = page.locator("h3 > .cut")
    assert [title.get_attribute("title") for title in titles.all()] == ["first", recipe]
    answers = [answer.inner_text() for answer in page.get_by_test_id("compare-output").all()]
    assert "" not in answers and len(set(answers)) == 2
    page.get_by_test_id("vote").nth(1).click()
    page.locator("[data-vote-status][data-state=saved]").wait_for()
    served = {row["slug"]: row["digest"] for row in ready.api("GET", "/api/lora/models").json()["results"]}
    vote = ready.api("GET", "/api/compare/votes", user="teammate").json()["results"][0]  # the newest
    adapters = [{"model": slug, "weight": w, "digest": served[slug]} for slug, w in (("first", 0.7), ("second", -0.25))]
    assert [one.get("adapters") for one in vote["candidates"]] == [None, adapters]
    assert vote["candidates"][1]["chosen"] and vote["candidates"][1]["digest"] not in served.values()
    with page.expect_download() as got:
        page.get_by_test_id("export-csv").click()
    with got.value.path().open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["adapters"] == "" and json.loads(rows[1]["adapters"]) == adapters

    # It can be changed, and a link leads back to it; what goes wrong with it is told in its column alone.
    page.reload()
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("chip-blend").click()
    assert [field.input_value() for field in weights.all()] == ["0.7", "-0.25"]
    weights.nth(1).fill("1.5")
    dialog.get_by_test_id("blend-done").click()
    assert chips.nth(1).get_attribute("title") == "0.7 × first + 1.5 × second"
    assert page.get_by_test_id("chip-blend").evaluate("one => one === document.activeElement")
    pk = next(row["id"] for row in ready.api("GET", "/api/lora/models").json()["results"] if row["slug"] == "second")
    ready.api("POST", f"/api/lora/models/{pk}/deactivate")
    try:
        compared(page)
    finally:
        ready.api("POST", f"/api/lora/models/{pk}/activate")
    columns = page.get_by_test_id("compare-column")
    assert "adapter_inactive" in columns.nth(1).get_by_test_id("column-error").inner_text()
    assert columns.nth(0).get_by_test_id("compare-output").inner_text() == answers[0]
    assert (
        ready.api("DELETE", f"/api/compare/votes/{vote['run']}", user="teammate").status == 204
    )  # others count theirs


@pytest.mark.parametrize("method", ["concatenate", "svd"])
def test_an_operator_saves_it(ready: Portal, sign_in: Callable[..., Any], method: str) -> None:
    page = sign_in(ready, "operator")
    opened(page, "/test?model=first&blend=first:0.7,second:0.5")
    page.get_by_test_id("blend-save").click()
    page.get_by_test_id("blend-name").fill(f"mix {method}")
    page.get_by_test_id("blend-method").select_option(method)
    if method == "svd":
        page.get_by_test_id("blend-rank").fill("2")
    page.get_by_test_id("blend-go").click()
    page.get_by_test_id("blend-done").wait_for()
    said = page.get_by_test_id("blend-done").inner_text()
    assert ("Relative error" in said) == (method == "svd")
    page.get_by_test_id("blend-made").click()
    page.wait_for_url("**/models/*")
    assert any("0.7 × first + 0.5 × second" in area.input_value() for area in page.locator("textarea").all())
    row = next(row for row in ready.api("GET", "/api/lora/models").json()["results"] if row["name"] == f"mix-{method}")
    assert ready.api("POST", f"/api/lora/models/{row['id']}/activate").status == 200
    body = {"prompt": "hello", "max_tokens": 8, "temperature": 0}
    alone = ready.api("POST", f"/api/lora/models/{row['id']}/test", body).json()
    if method == "concatenate":
        first = next(one for one in ready.api("GET", "/api/lora/models").json()["results"] if one["slug"] == "first")
        parts = [{"model": "first", "weight": 0.7}, {"model": "second", "weight": 0.5}]
        blend = ready.api("POST", f"/api/lora/models/{first['id']}/test", {**body, "adapters": parts}).json()
        assert alone["response"] == blend["response"] != ""


@pytest.mark.parametrize(
    ("width", "locale", "scheme"), [(390, "zh-CN", "dark"), (390, "en-US", "light"), (1280, "zh-CN", "light")]
)
def test_it_fits_every_screen(ready: Portal, sign_in: Callable[..., Any], width: int, locale: str, scheme: str) -> None:
    viewport = {"width": width, "height": 844}
    page = sign_in(ready, "operator", locale=locale, color_scheme=scheme, viewport=viewport)
    opened(page, "/test?model=first&blend=first:0.7,second:0.5")
    page.get_by_test_id("blend-part").nth(1).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not grave(page)
    if shots := os.environ.get("BLEND_SHOTS"):
        page.screenshot(path=f"{shots}/blend-{width}-{locale}.png")
    page.get_by_test_id("blend-save").click()
    page.get_by_test_id("blend-method").select_option("svd")
    assert not grave(page)
    if shots:
        page.screenshot(path=f"{shots}/save-{width}-{locale}.png")
