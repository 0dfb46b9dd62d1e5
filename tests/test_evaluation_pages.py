"""From a file to a table: a prompt set is made, edited and run in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.portal import Portal, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def serve(portal: Portal) -> list[str]:
    """Slugs of two adapters that are served."""
    assert portal.api("POST", "/api/lora/scan").status == 200
    found = [adapter(portal, slug) for slug in ("first", "second")]
    for one in found:
        assert portal.api("POST", f"/api/lora/models/{one['id']}/activate").status == 200
    return [one["slug"] for one in found]


def adapter(portal: Portal, slug: str) -> Any:
    """That one, beside others of similar names that earlier tests have made."""
    rows = portal.api("GET", f"/api/lora/models?search={slug}").json()["results"]
    return next(row for row in rows if row["slug"] == slug)


def test_a_set_is_made_edited_and_run(portal: Portal, sign_in: Callable[..., Any], tmp_path: Path) -> None:
    slugs = serve(portal)
    page = sign_in(portal, "operator")
    file = tmp_path / "prompts.csv"
    page.goto("/evaluations/sets")
    page.get_by_test_id("set-new").first.click()
    page.get_by_test_id("set-name").fill("greetings")
    file.write_text("prompt,pattern\nhello,(")
    page.get_by_test_id("set-file").set_input_files(file)
    page.get_by_test_id("set-create").click()
    page.locator("#new-set [data-problem]", has_text="2").wait_for()  # the line
    file.write_text("prompt,excludes\nhello,zzzzzz\nhow are you,zzzzzz\n")
    page.get_by_test_id("set-file").set_input_files(file)
    page.get_by_test_id("set-create").click()
    page.get_by_test_id("item-row").nth(1).wait_for()
    page.locator("html[data-ready=true]").wait_for()

    page.get_by_test_id("item-edit").first.click()
    page.get_by_test_id("check-add").click()
    page.get_by_test_id("check").nth(1).locator("select").first.select_option("length")
    page.get_by_test_id("check").nth(1).locator("[name=most]").fill("0")
    page.get_by_test_id("item-save").click()
    page.locator("[data-testid=toast][data-kind=good]").wait_for()
    assert page.get_by_test_id("item-row").first.locator(".tag").count() == 2

    page.get_by_test_id("set-evaluate").click()
    page.wait_for_url("**/evaluations/new?*")
    page.locator("html[data-ready=true]").wait_for()
    for slug in slugs:
        page.get_by_test_id("run-model").evaluate(
            "(select, slug) => { select.value = slug; select.dispatchEvent(new Event('change', { bubbles: true })); }",
            slug,
        )
        page.get_by_test_id("run-add").click()
    page.get_by_test_id("run-max").fill("8")
    page.get_by_test_id("run-start").click()
    page.locator("[data-testid=run-state].badge-active").wait_for(timeout=60_000)  # without a reload
    page.get_by_test_id("run-target").nth(1).get_by_text("1 / 2").wait_for()
    page.get_by_test_id("run-differences").select_option(index=2)
    assert page.get_by_test_id("result-row").count() == 2
    page.get_by_test_id("show-failed").click()
    page.get_by_test_id("result-row").wait_for()
    assert "#1" in page.get_by_test_id("result-row").inner_text()


def test_parity_is_measured_from_an_adapters_page(portal: Portal, sign_in: Callable[..., Any]) -> None:
    slug = serve(portal)[0]
    pk = adapter(portal, slug)["id"]
    page = sign_in(portal, "operator")
    page.goto(f"/models/{pk}")
    page.get_by_test_id("parity-link").click()
    page.wait_for_url("**/evaluations/parity?*")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("parity-start").click()
    page.get_by_test_id("parity-problem").wait_for()  # nothing was given
    sample = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "how are you"}]}
    page.get_by_test_id("parity-text").fill(json.dumps(sample))
    page.get_by_test_id("parity-precision-int8").check()
    page.get_by_test_id("parity-start").click()
    page.get_by_test_id("parity-verdict").wait_for(timeout=120_000)  # without a reload; two engines start
    assert page.get_by_test_id("parity-verdict").get_attribute("data-verdict") == "unrecorded"
    assert page.get_by_test_id("parity-same").is_visible()  # by the base's template and tokenizer
    assert page.get_by_test_id("parity-figure").count() == 3
    eight = page.locator("[data-testid=parity-precision][data-name=int8][data-state=done]")
    assert eight.locator("td").nth(1).inner_text().startswith(("+", "-"))  # against what is served
    page.get_by_test_id("parity-delete").click()
    page.get_by_test_id("parity-delete-confirm").click()
    page.get_by_test_id("parities-empty").wait_for()


def test_a_question_goes_from_test_into_a_new_set(portal: Portal, sign_in: Callable[..., Any]) -> None:
    slug = serve(portal)[0]
    page = sign_in(portal, "operator")
    page.goto(f"/test?model={slug}#max_tokens=4")
    page.get_by_test_id("prompt-input").fill("a question to keep")
    page.get_by_test_id("send-button").click()
    page.get_by_test_id("to-set-open").click(timeout=60_000)
    page.get_by_test_id("to-set-select").select_option("")
    page.get_by_test_id("to-set-name").fill("kept")
    page.get_by_test_id("to-set-add").click()
    page.locator("[data-testid=to-set]").wait_for(state="detached")
    found = portal.api("GET", "/api/evaluations/sets?search=kept").json()["results"]
    (item,) = portal.api("GET", f"/api/evaluations/sets/{found[0]['id']}/items").json()["results"]
    assert item["messages"] == [{"role": "user", "content": "a question to keep"}]
    assert item["reference"] == page.get_by_test_id("output").inner_text()


def test_a_gate_stops_an_adapter_until_somebody_states_a_reason(portal: Portal, sign_in: Callable[..., Any]) -> None:
    assert portal.api("POST", "/api/lora/scan").status == 200
    first = adapter(portal, "first")
    portal.api("POST", f"/api/lora/models/{first['id']}/deactivate")
    assert portal.api("PATCH", f"/api/lora/models/{first['id']}", {"tags": ["guarded"]}).status == 200
    items = [{"prompt": f"question {n}", "checks": [{"kind": "contains", "value": "zzzzzz"}]} for n in range(3)]
    assert portal.api("POST", "/api/evaluations/sets", {"name": "impossible", "items": items}).status == 201
    page = sign_in(portal, "operator")
    page.goto("/evaluations/gates")
    page.get_by_test_id("gate-new").click()
    page.get_by_test_id("gate-kind").select_option("tag")
    page.get_by_test_id("gate-name").fill("guarded")
    page.get_by_test_id("gate-set").select_option(label="impossible")
    page.get_by_test_id("gate-least").fill("")
    page.get_by_test_id("gate-save").click()
    page.get_by_test_id("gate-problem").wait_for()
    page.get_by_test_id("gate-least").fill("90")
    page.get_by_test_id("gate-save").click()
    page.get_by_test_id("gate-bar").get_by_text("≥ 90%").wait_for()

    standing = f"/api/evaluations/gates/standing?adapter={first['slug']}"
    wait_for(lambda: portal.api("GET", standing).json()["results"][0]["code"] == "gate_below_bar", 60, "the verdict")
    page.reload()
    page.locator("[data-testid=verdict-row][data-outcome=failed]").wait_for()
    page.goto(f"/models/{first['id']}")
    page.locator("[data-testid=adapter-gate][data-code=gate_below_bar]").wait_for()
    page.get_by_test_id("activate-button").click()
    page.get_by_test_id("override-reason").wait_for()
    assert page.get_by_test_id("override-go").is_disabled()
    page.keyboard.type("the demo needs it")  # the field has the focus
    page.get_by_test_id("override-go").click()
    page.get_by_test_id("deactivate-button").wait_for()
    assert "the demo needs it" in page.locator(".history").inner_text()
    page.get_by_test_id("gate-run").click()
    assert page.get_by_test_id("result-row").count() == 3


def test_a_judge_compares_the_answers(portal: Portal, sign_in: Callable[..., Any]) -> None:
    slugs = serve(portal)
    items = [{"prompt": "hello"}, {"prompt": "how are you"}]
    prompts = portal.api("POST", "/api/evaluations/sets", {"name": "to judge", "items": items}).json()["id"]
    wanted = {"prompts": prompts, "targets": slugs, "params": {"max_tokens": 8}}
    run = portal.api("POST", "/api/evaluations/runs", wanted).json()["id"]
    page = sign_in(portal, "operator")
    page.goto(f"/evaluations/runs/{run}")
    page.locator("[data-testid=run-state].badge-active").wait_for(timeout=60_000)
    page.get_by_test_id("run-duel").click()
    page.wait_for_url("**/head-to-head")
    page.locator("html[data-ready=true]").wait_for()
    targets = page.get_by_test_id("duel-target").all()
    for one in targets[:-1]:
        one.uncheck()
    page.get_by_test_id("duel-start").click()
    assert page.get_by_test_id("duel-problem").inner_text()  # one model is no pair
    for one in targets:
        one.check()
    page.get_by_test_id("duel-items").fill("1")
    page.get_by_test_id("duel-criteria").fill("Be brief.")
    page.get_by_test_id("duel-start").click()
    page.locator("[data-testid=duel-state].badge-active").wait_for(timeout=60_000)  # without a reload
    page.get_by_test_id("outcome-none").click()
    page.get_by_test_id("bout").get_by_text("context_length_exceeded").wait_for()  # of a model as small as this one
    page.get_by_test_id("duel-delete").click()
    page.get_by_test_id("duel-delete-confirm").click()
    page.get_by_test_id("duel-state").wait_for(state="detached")
    assert portal.api("GET", f"/api/evaluations/runs/{run}/head-to-head").json()["results"] == []
