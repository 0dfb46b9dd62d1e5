"""The pages in a real browser: the keyboard alone, what plain users see, changes made elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.tests import foreign, layouts
from tests.fixtures import models
from tests.fixtures.people import PASSWORD
from tests.fixtures.portal import Portal, make_old, wait_for
from tests.test_accessibility import grave

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
    page.locator("#id_username:focus").wait_for()  # one types at once
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


def test_monitoring_tells_what_was_asked_and_how_long_it_took(ready: Portal, sign_in: Callable[..., Any]) -> None:
    asked = {"model": "first", "prompt": "hello", "max_tokens": 3}
    page = sign_in(ready, "operator")
    numbers: list[str] = []

    def told() -> str | None:
        """A request's number that the page shows: of what is asked in one moment only the slowest are kept."""
        answer = ready.api("POST", "/v1/completions", asked, timeout=ANSWER_MS / 1000)
        numbers.append(answer.headers["X-Request-ID"])
        page.goto("/monitoring?range=15m")
        page.get_by_test_id("whole-requests").filter(has_text=re.compile("[1-9]")).wait_for()
        page.get_by_test_id("slow").locator("li").first.wait_for()
        return next((number for number in numbers if page.locator(f'.incident[data-id="{number}"]').count()), None)

    number = wait_for(told, what="one of the requests among the slowest")
    mine = page.locator(f'.incident[data-id="{number}"]')
    mine.first.locator("summary").click()
    assert number in mine.first.inner_text()
    chart = page.get_by_test_id("chart-requests")
    assert chart.locator("canvas").count() == 1
    chart.locator("summary").press("Enter")
    rows = chart.locator("[data-table] tbody tr")
    rows.first.wait_for()  # the table is made once the browser tells that it is open
    assert 15 <= rows.count() <= 17  # minutes, whole or begun
    page.locator("[data-testid=only-model][title=first]").click()  # others may have been asked more often
    page.wait_for_url("**/monitoring?range=15m&model=first")


def test_plain_users_see_what_is_active_and_no_switches(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner", at="/models")
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
    assert page.goto("/monitoring").status == 200
    page.locator("[data-monitoring][data-shown]").wait_for()
    for name in ("engine-state", "load", "filter-user", "marks", "chart-memory"):
        assert page.get_by_test_id(name).count() == 0, name
    assert page.goto(f"/models/{id_of(ready, 'second')}").status == 404
    page.goto(f"/models/{id_of(ready, 'first')}")
    assert page.get_by_test_id("edit-form").count() == 0


def test_changes_made_elsewhere_appear_by_themselves(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "operator", at="/models")
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
    page = sign_in(ready, at="/models", locale=locale)
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
    page = sign_in(ready, at="/models")
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
    page = sign_in(ready, "owner", at="/models")
    page.get_by_test_id("language").click()
    page.wait_for_load_state()
    assert page.evaluate("document.documentElement.lang") == "zh-hans"
    assert page.get_by_role("heading", level=1).inner_text() == "模型"
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


def test_every_refused_parameter_is_told_and_what_a_link_sets_is_seen(
    ready: Portal, sign_in: Callable[..., Any]
) -> None:
    page = sign_in(ready, "owner")
    page.goto("/test?model=first#prompt=hello&seed=-3&stop=end&temperature=9")
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_test_id("seed").is_visible() and page.get_by_test_id("stop-strings").input_value() == "end"
    page.get_by_test_id("send-button").click()
    page.locator("#error-temperature").wait_for()
    wrong = page.locator("[aria-invalid=true]")
    assert wrong.evaluate_all("list => list.map((field) => field.name)") == ["temperature", "seed"]
    assert page.evaluate("document.activeElement.id") == "temperature"


def test_more_parameters_move_nothing_else(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    page.goto("/test?model=first")
    page.locator("html[data-ready=true]").wait_for()
    places = "[...document.querySelectorAll('.area-prompt, .area-answer')].map((one) => one.getBoundingClientRect().y)"
    before = page.evaluate(places)
    page.locator("#parameters details.more > summary").click()
    assert page.get_by_test_id("seed").is_visible()
    assert page.evaluate(places) == before


def test_an_absent_model_is_told_and_nobody_answers_for_it(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    page.goto("/test?model=gone&prompt=hello")
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_test_id("test-unknown").is_visible()
    assert page.get_by_test_id("target-select").input_value() == "gone"
    page.get_by_test_id("send-button").click()
    page.get_by_test_id("answer-error").filter(has_text="unknown_target").wait_for()
    assert page.url.endswith("?model=gone")
    page.get_by_test_id("target-select").select_option("first")
    page.get_by_test_id("test-unknown").wait_for(state="detached")
    assert page.url.endswith("?model=first")


def test_a_model_is_chosen_by_the_keyboard_alone(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    page.goto("/test?model=first")
    page.locator("html[data-ready=true]").wait_for()
    field, select = page.get_by_test_id("target-select-picker"), page.get_by_test_id("target-select")
    options = page.get_by_role("option")
    field.focus()
    assert field.input_value() == "first" and field.get_attribute("aria-expanded") == "false"
    page.keyboard.press("ArrowDown")
    options.first.wait_for()
    assert field.get_attribute("aria-expanded") == "true"
    marked = page.locator("[role=option][aria-selected=true]")
    assert marked.get_attribute("id") == field.get_attribute("aria-activedescendant")
    assert marked.get_attribute("data-slug") == "first"  # where one is
    page.set_viewport_size({"width": 620, "height": 700})
    panel = page.get_by_test_id("picker-panel").locator("visible=true").element_handle()
    at_field = "([panel, field]) => panel.getBoundingClientRect().width === field.getBoundingClientRect().width"
    page.wait_for_function(at_field, arg=[panel, field.element_handle()])  # the list goes with its field
    page.keyboard.press("Escape")
    assert (field.input_value(), select.input_value()) == ("first", "first")
    page.keyboard.type("TINY llama")
    page.locator("[role=option][data-slug=tiny-llama][aria-selected=true]").wait_for()
    assert grave(page) == []
    page.keyboard.press("Enter")
    page.wait_for_url("**/test?model=tiny-llama")
    assert options.count() == 0 or not options.first.is_visible()
    assert (field.input_value(), select.input_value()) == ("tiny-llama", "tiny-llama")
    assert page.get_by_test_id("base-name").inner_text() == "tiny-llama"
    page.keyboard.type("no such model")
    page.get_by_role("status").filter(has_text="Nothing matches").wait_for()
    page.keyboard.press("Tab")
    assert (field.input_value(), select.input_value()) == ("tiny-llama", "tiny-llama")


def found(slug: str) -> dict[str, Any]:
    """What the server says of a search that finds this one."""
    choice = {
        "slug": slug, "name": slug.replace("-", "/"), "kind": "adapter", "digest": "d", "base": "sea",
        "base_slug": "sea", "context": 99, "rank": 7, "run": "far", "group": "f", "checkpoint": 5, "is_best": True,
        "tags": [],
    }  # fmt: skip
    return {"count": 1, "results": [choice]}


def test_a_long_list_is_searched_by_the_server(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner", at="/models")
    page.route("**/api/inference/targets?*", lambda route: route.fulfill(json=found("far-off")))
    page.route("**/test?model=first", lambda route: long_list(route))
    page.goto("/test?model=first")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("target-select-picker").fill("off")
    page.locator("[role=option][data-slug=far-off]").click()
    page.wait_for_url("**/test?model=far-off")
    assert page.get_by_test_id("target-select").input_value() == "far-off"
    assert page.locator('[data-fact="rank"]').inner_text() == "7"


def test_a_late_answer_to_other_words_is_not_chosen(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner", at="/models")
    late: list[Any] = []
    page.route("**/api/inference/targets?search=of", lambda route: late.append(route))
    page.route("**/api/inference/targets?search=off", lambda route: route.fulfill(json=found("far-off")))
    page.route("**/test?model=first", lambda route: long_list(route))
    page.clock.install()
    page.goto("/test?model=first")
    page.locator("html[data-ready=true]").wait_for()
    field = page.get_by_test_id("target-select-picker")
    field.fill("of")
    with page.expect_request("**/targets?search=of"):
        page.clock.run_for(500)
    field.fill("off")
    with page.expect_response("**/targets?search=of"):
        late.pop().fulfill(json=found("one-of-many"))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"model=(?!first)"))
    assert page.get_by_test_id("target-select").input_value() == "far-off"


def long_list(route: Any) -> None:
    """The page as it is where there are more models than it lists."""
    answer = route.fetch()
    route.fulfill(response=answer, body=re.sub(r'data-total="[0-9]+"', 'data-total="500"', answer.text()))


def test_the_palette_and_the_keys(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "operator")
    page.goto("/test?model=first")
    page.locator("html[data-ready=true]").wait_for()
    items = page.get_by_test_id("palette-item")
    page.keyboard.press("Control+k")
    page.get_by_test_id("palette-field").wait_for()
    items.filter(has_text="Scan for adapters").wait_for()
    assert grave(page) == []
    page.keyboard.type("dark")
    page.keyboard.press("Enter")
    page.locator("html[data-theme=dark]").wait_for()
    page.keyboard.press("Control+k")
    page.keyboard.type("seco")
    items.filter(has_text="second").first.wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/models/{id_of(ready, 'second')}")
    page.locator("html[data-ready=true]").wait_for()
    page.keyboard.press("?")
    page.get_by_test_id("keys").wait_for()
    assert grave(page) == []
    page.get_by_test_id("question-key").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 0  # a key alone can be switched off
    page.get_by_test_id("palette-open").click()
    page.get_by_test_id("palette-field").fill("monitoring")
    page.keyboard.press("Enter")
    page.wait_for_url("**/monitoring*")


def test_a_run_is_activated_and_compared_in_one_press(
    ready: Portal, sign_in: Callable[..., Any], tiny_adapter: Callable[..., Path]
) -> None:
    run = ready.var_dir / "adapters" / "pressed"
    for step in range(1, 11):
        folder = tiny_adapter(run / f"checkpoint-{step}", seed=50 + step, zero_b=step == 10)
        log = [{"step": at, "loss": 3.0 / at, "learning_rate": 1e-4} for at in range(1, step + 1)]
        state = {"global_step": step, "max_steps": 10, "log_history": log, "best_model_checkpoint": "x/checkpoint-2"}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    make_old(run)
    assert ready.api("POST", "/api/lora/scan").status == 200
    page = sign_in(ready, "operator")
    page.goto("/models?search=pressed")
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_test_id("model-row").count() == 1
    page.get_by_test_id("compare-run").click()
    dialog = page.get_by_test_id("compare-run-dialog")
    dialog.get_by_role("alert").filter(has_text="1 checkpoint was refused").wait_for()
    assert "at most 8" in dialog.inner_text()
    page.get_by_test_id("compare-run-go").click()
    page.wait_for_url("**/compare?models=*")
    page.locator("html[data-ready=true]").wait_for()
    steps = page.get_by_test_id("chip").evaluate_all(
        "list => list.map((one) => Number(one.dataset.slug.split('-').at(-1)))"
    )
    assert len(steps) == 7 and {1, 2} <= set(steps) and steps == sorted(steps)  # the last one was refused
    page.goto(f"/models/{id_of(ready, 'pressed-checkpoint-2')}")
    page.locator("[data-training][data-shown]").wait_for()
    chart = page.get_by_test_id("loss-chart")
    assert chart.locator("canvas").count() == 1 and page.get_by_test_id("norm-chart").is_hidden()
    assert "training 0.3" in chart.locator("[data-said]").text_content()
    page.get_by_test_id("smoothing").fill("0.9")
    page.get_by_test_id("log-scale").check()
    assert chart.locator(".u-series.is-raw").count() == 1
    page.get_by_test_id("training-table").locator("summary").click()
    page.get_by_test_id("training-table").locator("tbody tr").nth(9).wait_for()
    assert grave(page) == []
    for step in range(1, 11):
        ready.api(
            "DELETE",
            f"/api/lora/models/{id_of(ready, f'pressed-checkpoint-{step}')}?files=1&confirm=pressed/checkpoint-{step}",
        )


def test_curves_grow_while_a_training_writes(
    ready: Portal, sign_in: Callable[..., Any], tiny_adapter: Callable[..., Path]
) -> None:
    run = ready.var_dir / "adapters" / "growing"
    tiny_adapter(run / "checkpoint-10", seed=77)

    def write(upto: int) -> None:
        lines = [{"current_steps": step, "total_steps": 50, "loss": 2.0} for step in range(5, upto + 1, 5)]
        (run / "trainer_log.jsonl").write_text("\n".join(map(json.dumps, lines)))

    write(10)
    assert ready.api("POST", "/api/lora/scan").status == 200
    page = sign_in(ready, "operator")
    page.goto("/models?search=growing")
    page.get_by_test_id("training-now").filter(has_text="10/50").wait_for()
    page.goto(f"/models/{id_of(ready, 'growing-checkpoint-10')}?with={id_of(ready, 'first')}")
    said = page.get_by_test_id("training-state")
    said.filter(has_text="step 10 of 50 (20%)").wait_for()
    page.get_by_test_id("toast").filter(has_text="Nothing is known of the training").wait_for()
    write(40)
    said.filter(has_text="step 40 of 50 (80%)").wait_for()
    write(50)
    said.wait_for(state="hidden")
    ready.api(
        "DELETE", f"/api/lora/models/{id_of(ready, 'growing-checkpoint-10')}?files=1&confirm=growing/checkpoint-10"
    )


def test_a_token_is_made_once_and_revoked_after_a_question(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "outsider")
    page.goto("/tokens")
    rows = page.get_by_test_id("token-row")
    before = rows.count()
    page.get_by_test_id("token-name").fill("laptop")
    page.get_by_test_id("token-create").click()
    assert page.get_by_test_id("token-secret").inner_text().startswith("lp_")
    page.reload()
    assert (rows.count(), page.get_by_test_id("token-secret").count()) == (before + 1, 0)
    revoke = rows.filter(has_text="laptop").get_by_test_id("token-revoke")
    revoke.click()
    page.keyboard.press("Escape")
    assert rows.count() == before + 1
    revoke.click()
    page.get_by_test_id("token-revoke-confirm").locator("visible=true").click()
    page.wait_for_function(
        "(count) => document.querySelectorAll('[data-testid=token-row]').length === count", arg=before
    )


def test_many_adapters_have_one_toast(
    ready: Portal, sign_in: Callable[..., Any], tiny_adapter: Callable[..., Path]
) -> None:
    # No copies of one another: those are shown once.
    folders = [ready.var_dir / "adapters" / f"same{number}" for number in range(3)]
    for folder in folders:
        tiny_adapter(
            folder, seed=7 + int(folder.name[-1]), zero_b=folder.name != "same0"
        )  # no copies: those are shown once
        make_old(folder)
    assert ready.api("POST", "/api/lora/scan").status == 200
    page = sign_in(ready)
    page.goto("/models?search=same")
    page.locator("html[data-ready=true]").wait_for()
    for name in ("same0", "same1", "same2"):
        row_of(page, name).get_by_test_id("select").check()
    page.get_by_test_id("bulk-activate").click()
    toast = page.get_by_test_id("toast")
    toast.first.wait_for()
    assert toast.count() == 1
    text = toast.inner_text()
    assert "Done for 1 adapter" in text and "Failed for 2 adapters" in text
    assert "same1:" in text and "same2:" in text
    for name in ("same0", "same1", "same2"):
        ready.api("DELETE", f"/api/lora/models/{id_of(ready, name)}?files=1&confirm={name}")


def test_the_page_of_the_api_leads_back_and_has_the_theme(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner", color_scheme="dark")
    page.goto("/api/docs")
    page.locator(".swagger-ui .opblock").first.wait_for()
    assert "dark-mode" in page.evaluate("document.documentElement.className")
    page.locator("[data-theme-toggle]").click()
    page.wait_for_function("() => !document.documentElement.classList.contains('dark-mode')")
    page.get_by_test_id("language").click()
    page.locator("html[lang=zh-hans] .swagger-ui .opblock").first.wait_for()
    page.locator(".nav a[href='/models']").click()
    page.wait_for_url("**/models")


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


def test_a_repair_is_shown_change_by_change_and_carried_out(ready: Portal, sign_in: Callable[..., Any]) -> None:
    folder = ready.var_dir / "adapters" / "tuned"
    tensors = layouts.lora_tensors(hidden=models.HIDDEN, targets=tuple(layouts.OUT))
    config = layouts.config(base_model_name_or_path="tiny-llama", target_modules=list(layouts.OUT))
    foreign.torchtune(folder, tensors, config)
    make_old(folder)
    assert ready.api("POST", "/api/lora/scan").status == 200
    page = sign_in(ready, "operator", viewport={"width": 390, "height": 900})
    page.goto(f"/models/{id_of(ready, 'tuned')}")
    page.locator("html[data-ready=true]").wait_for()
    rows = page.locator("[data-changes] tr")
    first = rows.count()
    page.get_by_test_id("more-changes").click()
    page.wait_for_function("count => document.querySelectorAll('[data-changes] tr').length > count", arg=first)
    words = rows.last.inner_text()
    assert "lora_b.weight" in words and "base_model.model.model.layers.1." in words and "null" not in words
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_test_id("repair-button").click()
    page.get_by_test_id("repair-serves").wait_for()
    assert page.get_by_test_id("model-head").get_attribute("data-status") == "active"


def test_forgetting_many_asks_first(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "operator", at="/models")
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
