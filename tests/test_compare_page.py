"""The comparison page in a real browser: blind columns, votes that the server keeps, probabilities, differences."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.portal import Portal, make_old

from .test_accessibility import grave

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ANSWER_MS = 120_000  # the engine starts and loads its model on the first question
MODELS = ["tiny-llama", "first", "second"]
SEGMENTS = """async (cases) => {
  const { segments } = await import('/static/js/lib/tokens.js');
  return cases.map(([text, tokens]) => segments(text, tokens.map((token) => ({ token, logprob: 0, top: [] }))))
    .map((found) => found.map((segment) => [segment.text, segment.tokens.length]));
}"""
DIFFERENCES = """async (pairs) => {
  const { compareWords } = await import('/static/js/lib/diff.js');
  return pairs.map(([one, other]) => compareWords(one, other).map(({ kind, text }) => `${kind}:${text}`));
}"""
DIVERGENCE = """async (cases) => {
  const { firstDivergence } = await import('/static/js/lib/diff.js');
  return cases.map((texts) => firstDivergence(...texts));
}"""


@pytest.fixture(scope="module")
def ready(portal: Portal) -> Portal:
    """A portal whose two adapters are active."""
    assert portal.api("POST", "/api/lora/scan").status == 200
    for row in portal.api("GET", "/api/lora/models").json()["results"]:
        assert portal.api("POST", f"/api/lora/models/{row['id']}/activate").status == 200
    return portal


def ask(page: Any, models: list[str], prompt: str = "hello", *boxes: str) -> None:
    """Open the page with `models`, check `boxes`, send, and wait until every answer has ended."""
    page.goto(f"/compare?models={','.join(models)}")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("prompt-input").fill(prompt)
    page.get_by_test_id("max-tokens").fill("12")
    page.get_by_test_id("temperature").fill("0")
    for box in boxes:
        page.get_by_test_id(box).check()
    page.get_by_test_id("send-button").click()
    page.locator("[data-columns][aria-busy=false]").wait_for(timeout=ANSWER_MS)  # true since the button was pressed


def saved(page: Any) -> str:
    state = page.locator("[data-vote-status][data-state=saved]")
    state.wait_for()
    return str(state.inner_text())


def votes_of(portal: Portal, user: str) -> list[dict[str, Any]]:
    return list(portal.api("GET", "/api/compare/votes", user=user).json()["results"])


def table_of(page: Any, test_id: str = "export-csv") -> list[dict[str, str]]:
    """The rows of the CSV that this button gives. Answers may hold anything, so a real reader of CSV it is."""
    with page.expect_download() as got:
        page.get_by_test_id(test_id).click()
    with got.value.path().open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_blind_columns_say_nothing_until_the_choice(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner")
    # Every state of the results is looked at, whatever is shown how briefly.
    page.add_init_script(
        "addEventListener('DOMContentLoaded', () => { window.seen = []; const box = document.querySelector("
        "'[data-results]'); if (box) new MutationObserver(() => window.seen.push(box.outerHTML))"
        ".observe(box, { subtree: true, childList: true, attributes: true, characterData: true }); });"
    )
    ask(page, MODELS, "hello", "blind", "logprobs")
    columns = page.get_by_test_id("compare-column")
    assert columns.locator("h3").all_inner_texts() == ["A", "B", "C"]
    seen = page.evaluate("window.seen")
    assert len(seen) > 3
    # A random model's answer may hold any word, and the sentence about them holds "first".
    names = page.evaluate(
        """([states, names]) => names.filter((name) => states.some((html) => {
          const box = new DOMParser().parseFromString(html, 'text/html').body;
          for (const answer of box.querySelectorAll('.answer, [data-agreement]')) answer.textContent = '';
          return box.innerHTML.includes(name);
        }))""",
        [seen, MODELS],
    )
    assert names == []
    assert set(columns.locator(".card-foot p").all_inner_texts()) == {""}
    assert page.get_by_test_id("export-csv").is_disabled()

    page.get_by_test_id("vote").nth(1).click()
    assert saved(page)
    assert sorted(columns.locator("h3").all_inner_texts()) == sorted(MODELS)
    assert [row["model"] for row in table_of(page)] == columns.locator("h3").all_inner_texts()
    (vote,) = votes_of(ready, "owner")
    best = next(one for one in vote["candidates"] if one["chosen"])
    assert vote["blind"] is True
    assert best["model"] == columns.nth(1).get_attribute("data-slug")

    page.get_by_test_id("vote").nth(0).click()  # now with the names in sight
    page.get_by_text("Saved as a non-blind vote").wait_for()
    assert [vote["blind"] for vote in votes_of(ready, "owner")] == [False]


def test_a_vote_stays_and_is_exported(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "teammate")
    ask(page, MODELS, "=what is best?")
    page.get_by_test_id("vote").nth(1).click()
    saved(page)
    with page.expect_download() as got:
        page.get_by_test_id("export-jsonl").click()
    pairs = [json.loads(line) for line in got.value.path().read_text(encoding="utf-8").split("\n") if line]
    assert [pair["chosen"]["model"] for pair in pairs] == ["first", "first"]
    assert [pair["rejected"]["model"] for pair in pairs] == ["tiny-llama", "second"]
    served = {row["slug"]: row["digest"] for row in ready.api("GET", "/api/lora/models").json()["results"]}
    assert (pairs[0]["chosen"]["digest"], pairs[1]["rejected"]["digest"]) == (served["first"], served["second"])

    page.reload()
    assert page.get_by_test_id("votes-link").locator(".count").inner_text() == "1"
    page.get_by_test_id("votes-link").click()
    page.get_by_test_id("vote-row").wait_for()
    assert page.get_by_test_id("standing").count() == 3
    assert "1 of 1 vote" in page.locator('[data-testid=standing][data-model="first"]').inner_text()
    rows = table_of(page, "votes-csv")
    assert [row["chosen"] for row in rows] == ["False", "True", "False"]
    assert rows[0]["prompt"] == "'=what is best?"
    assert grave(page) == []

    other = sign_in(ready, "outsider")
    other.goto("/compare/votes")
    other.get_by_test_id("votes-empty").wait_for()

    page.get_by_test_id("vote-delete").click()
    page.get_by_test_id("vote-delete-confirm").click()
    page.get_by_test_id("votes-empty").wait_for()


def test_a_vote_that_cannot_be_saved_is_said_and_tried_again(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "admin")
    ask(page, MODELS[:2])
    page.route("**/api/compare/votes/*", lambda route: route.abort())
    page.get_by_test_id("vote").first.click()
    page.locator("[data-vote-status][data-state=failed]").wait_for()
    assert page.get_by_test_id("prompt-input").input_value() == "hello"
    assert votes_of(ready, "admin") == []
    page.get_by_test_id("vote-none").click()  # the newest choice is the one that counts
    page.unroute("**/api/compare/votes/*")
    page.get_by_test_id("vote-retry").click()
    saved(page)
    assert [vote["verdict"] for vote in votes_of(ready, "admin")] == ["none"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_tokens_are_coloured_and_the_text_is_the_same(ready: Portal, sign_in: Callable[..., Any], theme: str) -> None:
    page = sign_in(ready, "owner", color_scheme=theme)
    ask(page, MODELS, "世界 hello", "logprobs")
    page.get_by_test_id("token").first.wait_for()
    outputs = page.get_by_test_id("compare-output")
    coloured = outputs.evaluate_all("list => list.map((one) => one.textContent)")
    assert grave(page) == []
    page.get_by_test_id("view-differences").click()
    assert page.get_by_test_id("token").count() == 0
    assert outputs.evaluate_all("list => list.map((one) => one.textContent)") == coloured
    page.get_by_test_id("view-probabilities").click()

    first = outputs.first.get_by_test_id("token")
    assert first.evaluate_all("list => list.filter((one) => one.tabIndex === 0).length") == 1
    first.first.focus()
    tip = page.get_by_test_id("token-tip")
    tip.wait_for()
    page.keyboard.press("End")
    assert first.last.evaluate("one => one === document.activeElement")
    assert first.last.get_attribute("aria-describedby") == tip.get_attribute("id")
    assert "%" in tip.inner_text()
    page.evaluate("scrollTo(0, 0)")  # as moving the focus may do
    page.evaluate("new Promise(requestAnimationFrame)")
    assert tip.is_visible()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_one_column_without_an_answer_leaves_the_others(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "operator")
    page.goto(f"/compare?models={','.join(MODELS)}")
    page.locator("html[data-ready=true]").wait_for()
    pk = next(r["id"] for r in ready.api("GET", "/api/lora/models").json()["results"] if r["slug"] == "second")
    ready.api("POST", f"/api/lora/models/{pk}/deactivate")
    try:
        page.get_by_test_id("prompt-input").fill("hello")
        page.get_by_test_id("max-tokens").fill("8")
        page.get_by_test_id("prompt-input").press("Control+Enter")
        page.locator("[data-vote]:not(:disabled)").nth(1).wait_for(timeout=ANSWER_MS)
        assert "adapter_inactive" in page.get_by_test_id("column-error").inner_text()
        page.get_by_test_id("vote-tie").click()
        saved(page)
        (vote,) = votes_of(ready, "operator")
        assert (vote["verdict"], [one["model"] for one in vote["candidates"]]) == ("tie", ["tiny-llama", "first"])
    finally:
        ready.api("POST", f"/api/lora/models/{pk}/activate")


def test_where_answers_part_and_what_differs(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner", at="/models")
    texts = [["a b", "a b"], ["a b", "a c"], ["a", "a b"], ["a b c", "a b c", "a b"], ["大海", "大山"], ["", "a"]]
    assert page.evaluate(DIVERGENCE, texts) == [0, 2, 2, 3, 2, 1]
    pairs = [["a b c", "a b c"], ["a b c d", "a c d"], ["a b", "a x"], ["x y z", "y z"], ["大海很美", "大海美"]]
    assert page.evaluate(DIFFERENCES, pairs) == [
        ["same:a b c"],
        ["same:a ", "gap:b ", "same:c d"],
        ["same:a ", "new:x"],
        ["gap:x ", "same:y z"],
        ["same:大海", "gap:很", "same:美"],
    ]
    ask(page, MODELS)
    assert "answers" in page.get_by_test_id("agreement").inner_text()
    page.get_by_test_id("reference").select_option("tiny-llama")
    first, *others = page.get_by_test_id("parts").all()
    assert not first.is_visible()
    texts = page.get_by_test_id("compare-output").evaluate_all("list => list.map((one) => one.textContent)")
    expected = page.evaluate(DIVERGENCE, [[texts[0], text] for text in texts[1:]])
    assert [line.inner_text() for line in others] == [f"Differs from word {n}" if n else "Identical" for n in expected]


def test_tokens_find_their_place_in_the_text(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "owner", at="/models")
    cut = "\ufffd"
    cases = [
        ["The sea.", ["The", " sea", ".", ""]],
        ["a世界!", ["a", cut, cut, cut, "界", "!"]],
        ["x👍🏽y", ["x", "👍", cut, cut, "y"]],
        ["Hello my sea", ["Hello", "my", "sea"]],
        ["one two", ["one", " two#", "##"]],
        ["abc", []],
        ["", [""]],
    ]
    assert page.evaluate(SEGMENTS, cases) == [
        [["The", 1], [" sea", 1], [".", 1]],
        [["a", 1], ["世", 3], ["界", 1], ["!", 1]],
        [["x", 1], ["👍🏽", 3], ["y", 1]],
        [["Hello", 1], [" my", 1], [" sea", 1]],
        [["one", 1], [" two", 2]],
        [["abc", 0]],
        [],
    ]


LONG = "customer-support-assistant-qwen2.5-7b-lora-r16-20251120"


def test_names_that_differ_at_the_end_are_told_apart(
    ready: Portal, sign_in: Callable[..., Any], tiny_adapter: Callable[..., Path]
) -> None:
    for step in (50, 100):
        tiny_adapter(ready.var_dir / "adapters" / LONG / f"checkpoint-{step}", seed=step)
    make_old(ready.var_dir / "adapters" / LONG)
    ready.api("POST", "/api/lora/scan")
    rows = [row for row in ready.api("GET", "/api/lora/models").json()["results"] if row["name"].startswith(LONG)]
    for row in rows:
        assert ready.api("POST", f"/api/lora/models/{row['id']}/activate").status == 200
    page = sign_in(ready, "owner")
    ask(page, [*sorted(row["slug"] for row in rows), "first", "second"])
    for names in (page.get_by_test_id("chip").locator(".cut"), page.locator("h3 > .cut")):
        assert names.nth(0).get_attribute("title") == f"{LONG}/checkpoint-100"
        for index, end in ((0, "checkpoint-100"), (1, "checkpoint-50")):
            start, last = names.nth(index).locator("span").all()
            assert last.inner_text().endswith(end)
            assert start.evaluate("one => one.scrollWidth > one.clientWidth"), "there is no room for all of it"
            box, around = last.bounding_box(), names.nth(index).locator("xpath=..").bounding_box()
            assert box["x"] + box["width"] <= around["x"] + around["width"] + 1
    title = page.locator("h3 > .cut").first
    low = title.bounding_box()["height"]
    page.keyboard.press("Tab")  # with the keyboard the focus is to be seen
    title.focus()
    assert title.bounding_box()["height"] > low, "with the focus the whole name is shown"
    shutil.rmtree(ready.var_dir / "adapters" / LONG)
    for row in rows:
        ready.api("DELETE", f"/api/lora/models/{row['id']}")


def test_the_same_model_twice_with_parameters_of_its_own(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "admin")
    page.goto("/compare?models=first,first;temperature=0;seed=1")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("compare-add").select_option("first")
    page.get_by_test_id("own-parameters").wait_for()
    page.keyboard.press("Escape")
    page.get_by_test_id("prompt-input").fill("hello")
    page.get_by_test_id("max-tokens").fill("6")
    page.get_by_test_id("send-button").click()
    page.get_by_test_id("error-targets").filter(has_text="first is selected twice").wait_for()
    page.get_by_test_id("own").nth(2).click()
    page.get_by_test_id("own-max_tokens").fill("3")
    page.get_by_test_id("own-done").click()
    assert page.url.endswith("?models=first,first;temperature=0;seed=1,first;max_tokens=3")
    page.get_by_test_id("send-button").click()
    page.locator("[data-vote]:not(:disabled)").nth(2).wait_for(timeout=ANSWER_MS)
    titles = page.locator("h3 > .cut").evaluate_all("list => list.map((one) => one.title)")
    assert titles == ["first", "first · temperature 0, seed 1", "first · max_tokens 3"]
    page.get_by_test_id("vote").nth(1).click()
    saved(page)
    candidates = votes_of(ready, "admin")[0]["candidates"]
    assert [one["params"] for one in candidates] == [{}, {"temperature": 0, "seed": 1}, {"max_tokens": 3}]
    assert [one["model"] for one in candidates if one["chosen"]] == ["first"]
    assert page.get_by_test_id("toast").count() == 0, "the line beside the buttons says it"


def test_what_is_cut_off_refused_or_the_same_is_told(ready: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(ready, "teammate")
    many = ",".join(f"first;seed={seed}" for seed in range(9))
    page.goto(f"/compare?models=nobody,{many}")
    page.locator("html[data-ready=true]").wait_for()
    assert "nobody" in page.get_by_test_id("left-out").inner_text()
    assert "8" in page.get_by_test_id("too-many").inner_text()
    assert page.get_by_test_id("chip").count() == 8
    assert page.get_by_test_id("compare-add").is_disabled() and page.get_by_test_id("compare-full").is_visible()

    copy = ready.var_dir / "adapters" / "first-copy"
    shutil.copytree(ready.var_dir / "adapters" / "first", copy)
    ready.api("POST", "/api/lora/scan")
    row = next(r for r in ready.api("GET", "/api/lora/models").json()["results"] if r["slug"] == "first-copy")
    assert ready.api("POST", f"/api/lora/models/{row['id']}/activate").status == 200
    ask(page, ["first", "first-copy"], "hello", "blind")
    assert "first, first-copy" in page.get_by_test_id("twins").inner_text()
    page.get_by_test_id("vote-tie").click()
    saved(page)
    marks = page.get_by_test_id("cut-off")
    cut = [row["finish_reason"] == "length" for row in table_of(page)]
    assert [mark.is_visible() for mark in marks.all()] == cut
    page.get_by_test_id("send-button").click()
    assert page.get_by_test_id("vote-status").inner_text() == ""
    page.locator("[data-columns][aria-busy=false]").wait_for(timeout=ANSWER_MS)
    assert page.get_by_test_id("vote-status").inner_text() == ""
    ready.api("DELETE", f"/api/lora/models/{row['id']}?files=1&confirm=first-copy")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080), (390, 844)])
def test_answers_begin_within_the_first_screen(
    ready: Portal, sign_in: Callable[..., Any], width: int, height: int
) -> None:
    page = sign_in(ready, "owner", viewport={"width": width, "height": height})
    page.goto(f"/compare?models={','.join(MODELS)}")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("prompt-input").fill("hello")
    page.get_by_test_id("send-button").click()
    page.get_by_test_id("compare-output").first.wait_for()
    box = page.get_by_test_id("compare-output").first.bounding_box()
    assert 0 < box["y"] < height - 40
    columns = page.locator("[data-columns]").bounding_box()
    assert columns["width"] > width - 64
    page.keyboard.press("Escape")
