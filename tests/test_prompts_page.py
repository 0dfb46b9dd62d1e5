"""The prompt library in a browser: saved where something was written, inserted elsewhere; prompts sent lately."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fixtures.portal import Portal

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# Both before the list can follow what is typed: chosen is what the words say, not what was marked before.
TYPE_AND_ENTER = """(field, words) => {
    field.value = words;
    field.dispatchEvent(new InputEvent("input", { bubbles: true }));
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
}"""
ASK = """async (body) => {
    const headers = {
        "Content-Type": "application/json", "X-CSRFToken": document.querySelector("meta[name=csrf-token]").content,
    };
    return (await fetch("/v1/completions", { method: "POST", headers, body: JSON.stringify(body) })).status;
}"""
CHANGE_MODEL = "(select) => select.add(new Option('Base number 7', 'base-7'))"


def ready(page: Any, path: str) -> None:
    page.goto(path)
    page.locator("html[data-ready=true]").wait_for()


@pytest.fixture(scope="module")
def scanned(portal: Portal) -> Portal:
    assert portal.api("POST", "/api/lora/scan").status == 200
    return portal


def test_saved_in_one_place_and_inserted_in_others(scanned: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(scanned, "teammate")
    page.goto("/prompts")
    page.get_by_test_id("prompts-empty").wait_for()
    ready(page, "/test")
    page.get_by_test_id("library-insert").click()
    page.get_by_text("nothing to insert here yet").wait_for()
    page.keyboard.press("Escape")
    page.locator(".system-box").evaluate("(box) => (box.open = true)")
    page.get_by_test_id("system-input").fill("Answer like a pirate.\nBe brief.")
    page.get_by_test_id("temperature").fill("0.3")
    page.get_by_test_id("library-save-open").click()
    assert page.get_by_test_id("library-name").input_value() == "Answer like a pirate."
    page.get_by_test_id("library-name").fill(" ")
    page.keyboard.press("Enter")
    page.get_by_test_id("library-error").wait_for()
    page.get_by_test_id("library-name").fill("Pirate")
    page.keyboard.press("Enter")
    page.get_by_test_id("library-save").wait_for(state="detached")

    # In Chat by the keyboard, into fields that already hold something; the browser's own undo brings that back
    ready(page, "/chat")
    page.get_by_test_id("chat-settings-open").click()
    system = page.get_by_test_id("chat-system")
    system.fill("what was there")
    page.get_by_test_id("settings-library-insert").press("Enter")
    page.keyboard.type("pira")
    page.get_by_test_id("library-item").wait_for()
    page.keyboard.press("Enter")
    page.get_by_test_id("toast").wait_for()
    assert system.input_value() == "Answer like a pirate.\nBe brief."
    assert page.get_by_test_id("temperature").input_value() == "0.3"
    system.press("Control+z")
    assert system.input_value() == "what was there"
    system.press("Control+y")
    page.get_by_test_id("settings-done").click()
    assert "pirate" in page.get_by_test_id("facts-system").inner_text()

    # From the library's page, and changed there
    page.goto("/prompts")
    page.get_by_test_id("prompt-open").click()
    page.wait_for_url("**/prompts/*")
    page.get_by_test_id("temperature").fill("9")
    page.get_by_test_id("prompt-save").click()
    assert page.locator('[data-error="temperature"]').is_visible()
    page.get_by_test_id("temperature").fill("0.4")
    page.get_by_test_id("prompt-text").fill("Where is the treasure?")
    page.get_by_test_id("prompt-save").click()
    page.wait_for_url("**/prompts")
    page.get_by_test_id("prompt-test").click()
    page.get_by_test_id("toast").filter(has_text="inserted").wait_for()
    assert page.get_by_test_id("prompt-input").input_value() == "Where is the treasure?"
    assert page.get_by_test_id("temperature").input_value() == "0.4"
    assert "saved" not in page.url

    page.goto("/prompts")
    page.get_by_test_id("prompt-edit").click()
    page.wait_for_url("**/prompts/*")
    page.get_by_test_id("prompt-delete").click()
    page.get_by_test_id("prompt-delete-confirm").click()
    page.get_by_test_id("prompts-empty").wait_for()


SEARCHED = "**/api/prompts?*"


@pytest.fixture
def held(scanned: Portal, sign_in: Callable[..., Any]) -> Iterator[tuple[Any, list[Any]]]:
    """The open list of two saved prompts, whose field has the focus; the searches wait, in a list, for the test."""
    saved = [{"name": name, "prompt": f"by {name}"} for name in ("Poet", "Pirate")]
    made = [scanned.api("POST", "/api/prompts", one, user="owner").json()["id"] for one in saved]
    page = sign_in(scanned, "owner", at="/models")
    page.clock.install()
    ready(page, "/test")
    searches: list[Any] = []
    page.route(SEARCHED, lambda route: searches.append(route))
    with page.expect_request(SEARCHED):
        page.get_by_test_id("library-insert").click()
    yield page, searches
    for pk in made:
        scanned.api("DELETE", f"/api/prompts/{pk}", user="owner")


def test_enter_before_the_letters_have_rested_is_not_lost(held: tuple[Any, list[Any]]) -> None:
    page, searches = held
    with page.expect_request(SEARCHED):
        page.get_by_test_id("library-field").evaluate(TYPE_AND_ENTER, "pira")
    page.clock.run_for(1000)
    for one in searches:
        one.continue_()
    page.get_by_test_id("toast").filter(has_text="Pirate").wait_for()
    assert page.get_by_test_id("prompt-input").input_value() == "by Pirate"


def test_a_late_list_is_not_what_enter_inserts_from(held: tuple[Any, list[Any]]) -> None:
    page, searches = held
    page.get_by_test_id("library-field").fill("poet")  # the newest saved prompt, first in the list of all, is another
    with page.expect_response(SEARCHED):
        searches.pop(0).continue_()
    page.unroute(SEARCHED)
    page.keyboard.press("Enter")
    page.get_by_test_id("toast").filter(has_text="Poet").wait_for()
    assert page.get_by_test_id("prompt-input").input_value() == "by Poet"


def test_a_shared_one_is_read_and_copied(scanned: Portal, sign_in: Callable[..., Any]) -> None:
    kept = {"name": "House style", "system": "Plain words.", "params": {"temperature": 0.1}, "shared": True}
    pk = scanned.api("POST", "/api/prompts", kept, user="owner").json()["id"]
    page = sign_in(scanned, "outsider")
    ready(page, f"/prompts/{pk}")
    assert page.get_by_test_id("prompt-system").input_value() == "Plain words."
    assert page.get_by_test_id("prompt-save").count() == 0
    page.get_by_test_id("prompt-copy").click()
    page.get_by_test_id("prompt-save").wait_for()
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_test_id("temperature").input_value() == "0.1"
    assert not page.get_by_test_id("prompt-shared").is_checked()
    scanned.api("DELETE", f"/api/prompts/{pk}", user="owner")


def test_recent_prompts_stay_in_the_browser_until_its_account_signs_out(
    scanned: Portal, sign_in: Callable[..., Any]
) -> None:
    page = sign_in(scanned, "owner", at="/models")
    asked = {"model": "tiny-llama", "prompt": "hello", "max_tokens": 1}
    assert page.evaluate(ASK, asked) == 200  # so that the list of models has a recent one as well
    page.wait_for_function("async () => / data-recent[ >]/.test(await (await fetch('/test')).text())")
    page.route_web_socket("**/ws/generate", lambda socket: None)  # that a prompt was sent is enough
    prompt = page.get_by_test_id("prompt-input")
    for path, text in (("/test", "the first\nof two"), ("/compare", "the second"), ("/test", "the first\nof two")):
        ready(page, f"{path}?model{'s' * (path == '/compare')}=tiny-llama")
        prompt.fill(text)
        page.get_by_test_id("send-button").click()
    prompt.press("ArrowUp")  # its cursor is not at the beginning
    assert page.get_by_test_id("recent").count() == 0
    prompt.fill("")
    prompt.press("ArrowUp")
    found = page.get_by_test_id("recent-item")
    found.first.wait_for()
    assert [text.split("\n")[0] for text in found.all_inner_texts()] == ["the first of two", "the second"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert prompt.input_value() == "the second"
    page.get_by_test_id("recent-open").click()
    page.get_by_test_id("recent-clear").click()
    page.get_by_test_id("recent-open").click()
    assert found.count() == 0
    page.keyboard.press("Escape")

    kept = "[...Object.keys(localStorage)].filter((key) => key.startsWith('recent-prompts'))"
    page.reload()
    page.locator("html[data-ready=true]").wait_for()
    prompt.fill("a secret")
    page.get_by_test_id("send-button").click()
    assert len(page.evaluate(kept)) == 1
    page.get_by_test_id("account-menu").click()
    page.get_by_test_id("logout").click()
    page.wait_for_url("**/login*")
    assert page.evaluate(kept) == []


def test_any_list_of_a_select_s_own_options_is_searched(scanned: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(scanned, "operator", at="/models")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("filter-open").click()
    page.get_by_test_id("filter-base").evaluate(CHANGE_MODEL)
    field = page.get_by_test_id("filter-base-picker")
    field.click()
    field.evaluate(TYPE_AND_ENTER, "number")
    page.wait_for_url("**/models?base=base-7")
    assert page.get_by_test_id("model-row").count() == 0
    page.locator("[data-filter-foot] [data-testid=filter-clear]").click()
    page.get_by_test_id("model-row").first.wait_for()
    page.get_by_test_id("filter-base-picker").wait_for()
