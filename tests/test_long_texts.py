"""No page depends on how long a text is: one word of 5,000 characters in every text of every row and in every field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fixtures.long_texts import WORD
from tests.fixtures.portal import Portal, run_python, running_portal

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# What is beyond the page's edge, and boxes that scroll sideways though they hold no code, no table and no diagram.
BEYOND = """() => {
  const width = document.documentElement.clientWidth;
  const wide = document.documentElement.scrollWidth - width;
  const found = wide > 0 ? [`the page is ${wide} px too wide`] : [];
  const sideways = (node) => ['auto', 'scroll'].includes(getComputedStyle(node).overflowX);
  const within = (node) => node.parentElement && (sideways(node.parentElement) || within(node.parentElement));
  for (const node of document.querySelectorAll('body *')) {
    if (!node.checkVisibility()) continue;
    const name = node.outerHTML.slice(0, 100);
    const meant = 'pre, input, textarea, .code-block, .md-table, .plot-scroll, .segmented, .overflow-x-auto';
    const scrolls = sideways(node) && node.scrollWidth > node.clientWidth + 1;
    if (scrolls && !node.matches(meant)) found.push(`scrolls: ${name}`);
    const { left, right } = node.getBoundingClientRect();
    const acts = node.matches('a, button, input, select, textarea, summary, [role=status], [role=alert]');
    if (acts && !within(node) && right - left > 1 && (right > width + 1 || left < -1)) found.push(`outside: ${name}`);
  }
  return found;
}"""
FILL = """(word) => {
  for (const field of document.querySelectorAll('textarea, input:not([type]), input[type=search], input[type=text]')) {
    if (!field.checkVisibility()) continue;
    field.value = word;
    field.dispatchEvent(new Event('input', { bubbles: true }));
  }
}"""
TOAST = """async (word) => (await import('/static/js/lib/toast.js')).toast('bad', word, word)"""
STATUS = {
    "worker": {"state": "ready", "device": WORD, "pid": 1, "in_flight": 0, "restarts": 0},
    "engine": {
        "state": "ready", "base": WORD, "base_key": "b" * 64, "precision": WORD, "context": 512, "running": 1,
        "slots": 8, "waiting": 0, "tokens": 10, "pinned": False,
        "loading": {"stage": "weights", "name": WORD, "progress": 0.5},
        "adapters": [{"name": WORD, "digest": "d" * 64, "rank": 8, "bytes": 1000, "in_use": 2}] * 2,
        "memory": {"base": 1, "adapters": 1, "adapter_budget": 2, "kv": 1, "device_used": 1, "device_total": 2},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Portal, dict[str, Any]]]:
    """A portal full of long texts, and the pages that show them."""
    # Active adapters have no stored copy here: a look at the store would take them out of service after a minute.
    no_looks = {"STORE_CHECK_INTERVAL": "0", "STORE_HASH_INTERVAL": "0"}
    with running_portal(tmp_path_factory.mktemp("long") / "var", **no_looks) as portal:
        yield portal, json.loads(run_python(portal.environment, "-m", "tests.fixtures.long_texts"))


def beyond(page: Any) -> list[str]:
    return list(page.evaluate(BEYOND))


def ready(page: Any, path: str) -> None:
    page.goto(path)
    if page.locator("[data-compare], [data-test], [data-chat], [data-monitoring], [data-list]").count():
        page.locator("html[data-ready=true]").wait_for()


@pytest.fixture(params=[390, 1280])
def page(request: Any, crowded: tuple[Portal, dict[str, Any]], sign_in: Callable[..., Any]) -> Any:
    page = sign_in(crowded[0], "operator", viewport={"width": request.param, "height": 844})
    page.route("**/api/inference/status", lambda route: route.fulfill(json=STATUS))
    return page


def test_every_page_keeps_its_width(page: Any, crowded: tuple[Portal, dict[str, Any]]) -> None:
    found: dict[str, list[str]] = {}
    for path in crowded[1]["pages"]:
        ready(page, path)
        if path == "/monitoring":
            page.locator("[data-bank] .badge").first.wait_for()
        shown = beyond(page)
        page.evaluate("for (const one of document.querySelectorAll('details:not([data-menu])')) one.open = true")
        page.evaluate(FILL, WORD)
        if path != "/account":
            page.evaluate(TOAST, WORD)
        found[path[:60]] = shown + beyond(page)
    assert not {path: what for path, what in found.items() if what}


def test_the_pages_of_administrators_keep_their_width(
    page: Any, crowded: tuple[Portal, dict[str, Any]], sign_in: Callable[..., Any]
) -> None:
    portal, shown = crowded
    page = sign_in(portal, "admin", viewport=page.viewport_size)
    found: dict[str, list[str]] = {}
    for path in shown["office"]:
        page.goto(path)
        page.evaluate("for (const one of document.querySelectorAll('details:not([data-menu])')) one.open = true")
        page.evaluate(FILL, WORD)
        found[path[:60]] = beyond(page)
    page.goto(f"/people/{shown['person']}")
    page.get_by_test_id("token-revoke").click()
    found["revoke"] = beyond(page)
    page.keyboard.press("Escape")
    page.get_by_test_id("delete").click()
    page.get_by_test_id("belongings").wait_for()
    found["delete"] = beyond(page)
    assert not {path: what for path, what in found.items() if what}


def test_what_a_click_shows_keeps_its_width(page: Any, crowded: tuple[Portal, dict[str, Any]]) -> None:
    ready(page, f"/models/{crowded[1]['adapter']}")
    assert page.get_by_test_id("edit-notes").bounding_box()["height"] < 600
    page.get_by_test_id("delete-button").click()
    assert beyond(page) == []
    assert page.get_by_test_id("delete-confirm").is_visible()
    ready(page, "/compare?models=long:0.5")
    page.get_by_test_id("chip-blend").click()
    page.get_by_test_id("blend-part").wait_for()
    assert beyond(page) == []
    page.goto("/tokens")
    page.get_by_test_id("token-name").fill(WORD[:100])
    page.get_by_test_id("token-create").click()
    page.get_by_test_id("token-secret").wait_for()
    page.wait_for_load_state()  # of the page that says it: until its style sheet is there, nothing of it is painted
    assert beyond(page) == []


def test_lists_of_models_keep_the_page_s_width(page: Any, crowded: tuple[Portal, dict[str, Any]]) -> None:
    page.route_web_socket("**/ws/generate", lambda _socket: None)  # no answer: the adapter has no files
    ready(page, "/test?model=long")
    page.get_by_test_id("target-select-picker").click()
    page.get_by_role("option").first.wait_for()
    assert beyond(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.get_by_test_id("palette-item").filter(has_text="Antidis").first.wait_for()
    assert beyond(page) == []
    page.keyboard.press("Escape")
    page.get_by_test_id("prompt-input").fill("")
    page.get_by_test_id("library-save-open").click()
    page.get_by_test_id("library-save").wait_for()
    assert beyond(page) == []
    page.keyboard.press("Escape")
    page.get_by_test_id("library-insert").click()
    page.get_by_test_id("library-item").nth(1).wait_for()
    assert beyond(page) == []
    page.keyboard.press("Enter")
    page.get_by_test_id("toast").first.wait_for()
    page.get_by_test_id("send-button").dispatch_event("click")  # a notice may lie above it
    page.get_by_test_id("recent-open").dispatch_event("click")
    page.get_by_test_id("recent-item").wait_for()
    assert beyond(page) == []
    page.route("**/api/lora/models?*ordering=-trained_at*", other_runs)
    ready(page, f"/models/{crowded[1]['adapter']}")
    page.locator("[data-training][data-shown]").wait_for()
    page.get_by_test_id("overlay").click()
    page.get_by_test_id("overlay-option").first.wait_for()
    assert beyond(page) == []


def other_runs(route: Any) -> None:
    """What is found belongs to other runs than that of the page."""
    answer = route.fetch()
    found = answer.json()
    for number, row in enumerate(found["results"]):
        row.update(id=10_000 + number, run=WORD)
    route.fulfill(response=answer, json=found)


@pytest.mark.parametrize("path", ["/test?model=long", "/compare?models=long,long:0.5"])
def test_an_answer_keeps_the_page_s_width(page: Any, path: str) -> None:
    def answer(socket: Any) -> None:
        def asked(text: str) -> None:
            frame = json.loads(text)
            if frame["type"] != "generate":
                return
            names = [*frame["targets"], *(blend["name"] for blend in frame.get("blends", ()))]
            one, *others = ({"id": frame["id"], "target": name} for name in names)
            error = {"code": "server_error", "message": WORD, "param": None, "status": 500}
            for other in [one, *others]:
                socket.send(json.dumps({**other, "type": "token", "index": 0, "text": WORD}))
                socket.send(json.dumps({**other, "type": "error", **error}))

        socket.on_message(asked)

    page.route_web_socket("**/ws/generate", answer)
    ready(page, path)
    page.get_by_test_id("prompt-input").fill(f"https://a.example/{WORD}")
    page.get_by_test_id("send-button").click()
    page.locator("[data-testid=answer-error], [data-testid=column-error]").first.wait_for()
    assert beyond(page) == []


def test_the_administration_keeps_its_width(
    page: Any, crowded: tuple[Portal, dict[str, Any]], sign_in: Callable[..., Any]
) -> None:
    portal, shown = crowded
    page = sign_in(portal, "admin", viewport=page.viewport_size)
    table = "adapters/loraadapter/"
    for path in ("", table, f"{table}{shown['adapter']}/change/", f"auth/user/{shown['person']}/change/"):
        page.goto(f"/admin/{path}")
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path
