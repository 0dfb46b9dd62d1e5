"""Markdown in a real browser: the specifications' examples, what models write beyond them, and texts that grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .test_accessibility import grave

pytestmark = [pytest.mark.browser, pytest.mark.slow]
DATA = Path(__file__).parent / "data" / "markdown"

# Markup of a text is shown as text.
RAW_HTML_SECTIONS = {"HTML blocks", "Raw HTML", "Disallowed Raw HTML (extension)"}
RAW_HTML = {21, 31, 201, 308, 309, 344, 476, 477, 491, 494, 524, 536, 642, 643}
# An image is a link to it: nothing is fetched from elsewhere.
IMAGES = {517, 520, 531, *range(572, 590), 591}
DEVIATIONS = {
    "commonmark": {
        12: r"`\[…\]` is a formula",
        39: "a new line by its number is no new line of the text",
        475: "an image in raw HTML",
        484: "a link without words shows its address",
        602: "GFM: a bare address is a link",
        608: "GFM: a bare address is a link",
        611: "GFM: a bare address is a link",
        612: "GFM: a bare address is a link",
    },
    "gfm": {
        625: "a bracket that closes none ends an address",
        626: "only the semicolon is left out, whatever is before it",
        628: "ftp is no scheme of a link here",
        630: "a host with a plus sign is one",
    },
}
COMPARE = """async (examples) => {
  const { MarkdownView } = await import('/static/js/lib/markdown.js');
  const { expected, shown } = await import('/data/markdown/compare.js');
  return examples.map(({ markdown, html }) => {
    const box = document.createElement('div');
    new MarkdownView(box).show(markdown);
    return [JSON.stringify(shown(box)), JSON.stringify(expected(html))];
  });
}"""
# What a text looks like, and what is in it, once it is drawn at once; formulas and colours included.
SHOW = """async ([text, live]) => {
  const { MarkdownView } = await import('/static/js/lib/markdown.js');
  window.box = document.createElement('div');
  document.body.replaceChildren(window.box);
  window.view = new MarkdownView(window.box);
  window.view.show(text, live);
}"""


def examples(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    numbers = RAW_HTML | IMAGES if name == "commonmark" else set()
    return [one for one in found if one["section"] not in RAW_HTML_SECTIONS and one["example"] not in numbers]


@pytest.mark.parametrize(("name", "count"), [("commonmark", 552), ("gfm", 23)])
def test_the_examples_of_the_specification(script_page: Any, name: str, count: int) -> None:
    corpus = examples(name)
    assert len(corpus) == count
    results = script_page.evaluate(COMPARE, corpus)
    wrong = {
        one["example"]: (one["markdown"], found, wanted)
        for one, (found, wanted) in zip(corpus, results, strict=True)
        if found != wanted
    }
    assert wrong.keys() == DEVIATIONS[name].keys(), {k: v for k, v in wrong.items() if k not in DEVIATIONS[name]}


def show(page: Any, text: str, live: bool = False) -> Any:
    """The box in which `text` is shown, as a locator."""
    page.evaluate(SHOW, [text, live])
    return page.locator("body > .md")


# Copying without the clipboard's permission goes by a field that is selected; the notice of it has its place.
COPIES = """() => {
  document.execCommand = () => { window.copied = document.activeElement.value; return true; };
  document.body.append(document.createElement('div'));
  document.body.lastChild.dataset.toasts = '';
}"""


def test_a_fence_in_a_list_is_one_block_and_its_code_has_no_indent(script_page: Any) -> None:
    box = show(script_page, "1. first\n\n   ```python\n   def f():\n\n       return 1\n   ```\n\n2. second\n")
    assert box.locator("ol").count() == 1 and box.locator("ol > li").count() == 2
    assert box.locator("li:first-child code").text_content() == "def f():\n\n    return 1"
    script_page.evaluate(COPIES)
    box.get_by_role("button", name="Copy code").click()
    script_page.wait_for_function("() => window.copied")
    assert script_page.evaluate("window.copied") == "def f():\n\n    return 1"


def test_a_table_follows_a_line_of_text_and_its_cells_hold_what_models_write(script_page: Any) -> None:
    box = show(
        script_page, "Both:\n| a | b |\n| :-- | --: |\n| one<br>two | `x | y` |\n| `x \\| y` | https://a.example |\n"
    )
    assert box.locator("p").inner_text() == "Both:"
    cells = box.locator("td")
    assert cells.count() == 4
    assert cells.nth(0).inner_text() == "one\ntwo"
    assert cells.nth(1).locator("code").inner_text() == cells.nth(2).locator("code").inner_text() == "x | y"
    assert cells.nth(3).locator("a").get_attribute("href") == "https://a.example"
    aligned = [cell.evaluate("cell => getComputedStyle(cell).textAlign") for cell in (cells.nth(0), cells.nth(1))]
    assert aligned == ["left", "right"]


@pytest.mark.parametrize(
    ("text", "inline", "display"),
    [
        (r"so \(a^2\) and $b^2$ it is", 2, 0),
        (r"so \[a^2\] it is", 0, 1),
        ("so\n$$\na^2\n\nb\n$$\nit is", 0, 1),
        ("- so\n  \\[\n  a^2\n  \\]\n- it is", 0, 1),
        (r"$5 and $6, US$7, \$8\$, `$x$`", 0, 0),
    ],
)
def test_formulas_are_drawn(script_page: Any, text: str, inline: int, display: int) -> None:
    box = show(script_page, text)
    if inline + display:
        box.locator("math").first.wait_for(state="attached")
    assert (box.locator(".math math").count(), box.locator(".math-display math").count()) == (inline, display)


def test_addresses_become_links_where_their_scheme_is_allowed(script_page: Any) -> None:
    text = "见https://a.example/x，<https://b.example> www.c.example a@d.example foo.py README.md ftp://e.example"
    box = show(script_page, f"{text} [go](javascript:1) [doc](docs/x.md) ![cat](https://f.example/cat.png)")
    links = box.locator("a")
    assert links.evaluate_all("list => list.map((link) => [link.textContent, link.getAttribute('href')])") == [
        ["https://a.example/x", "https://a.example/x"],
        ["https://b.example", "https://b.example"],
        ["www.c.example", "http://www.c.example"],
        ["a@d.example", "mailto:a@d.example"],
        ["cat", "https://f.example/cat.png"],
    ]
    assert set(links.evaluate_all("list => list.map((link) => link.rel)")) == {"noopener noreferrer nofollow"}
    assert box.get_by_text("doc", exact=True).get_attribute("title") == "docs/x.md"


def test_emphasis_beside_chinese_punctuation(script_page: Any) -> None:
    box = show(script_page, "**“重点”**是这样，**注意：**后面。***粗斜***")
    assert box.locator("strong").all_inner_texts() == ["“重点”", "注意：", "粗斜"]


def test_code_is_coloured_once_its_library_is_there(script_page: Any) -> None:
    box = show(script_page, "```py\ndef f():\n    return 'x'\n```\n\n```nolang\ndef\n```\n")
    box.locator(".hl-keyword").first.wait_for()
    assert box.locator(".hl-keyword").all_inner_texts() == ["def", "return"]
    assert box.locator("code").all_text_contents() == ["def f():\n    return 'x'", "def"]


def test_reasoning_is_folded(script_page: Any) -> None:
    box = show(script_page, "<th", live=True)
    assert box.inner_text() == ""
    draw = "([text, live]) => window.view.show(text, live)"
    script_page.evaluate(draw, ["<think>\nFirst *this*", True])
    summary, thoughts = box.get_by_test_id("reasoning"), box.locator(".md-think-text")
    assert summary.inner_text() == "Thinking…" and not thoughts.is_visible()
    summary.click()
    assert thoughts.locator("em").inner_text() == "this"
    script_page.evaluate(draw, ["<think>\nFirst *this*, then\n</think>\n\nThe **answer**", True])
    assert summary.inner_text() == "Reasoning"
    assert thoughts.is_visible() and thoughts.inner_text() == "First this, then", "it stays as the reader left it"
    assert box.locator(":scope > p").all_inner_texts() == ["The answer"]


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("<think>\n\n</think>\n\nyes", None, "yes"),
        ("hm\n</think>\nyes", "hm", "yes"),
        ("<thinking>hm</thinking>yes", "hm", "yes"),
        ("<think>a</think><think>b</think>yes", "a\nb", "yes"),
        ("<think>```\nx\n</think>yes", "x", "yes"),
        ("Write `<think>` first", None, "Write <think> first"),
    ],
)
def test_what_is_reasoning(script_page: Any, text: str, thoughts: str | None, answer: str) -> None:
    box = show(script_page, text)
    folded = box.locator(".md-think-text")
    assert folded.count() == (thoughts is not None)
    if thoughts is not None:
        inner = folded.evaluate("box => [...box.querySelectorAll('p, code')].map((one) => one.textContent).join('\\n')")
        assert inner == thoughts
    assert box.locator(":scope > p").inner_text() == answer


def test_reasoning_without_an_end_is_all_there_is_to_read(script_page: Any) -> None:
    box = show(script_page, "<think>only this")
    assert box.get_by_test_id("reasoning").inner_text() == "Reasoning, cut off"
    assert box.locator(".md-think-text").is_visible()


GROWN = """async ([texts, live]) => {
  const { MarkdownView } = await import('/static/js/lib/markdown.js');
  const drawn = (text) => {
    const box = document.createElement('div');
    new MarkdownView(box).show(text);
    return box.innerHTML;
  };
  return texts.filter((text) => {
    const box = document.createElement('div');
    const view = new MarkdownView(box);
    let step = 0;
    for (let end = 1; end < text.length; end += 1 + (step++ % 3)) view.show(text.slice(0, end), live);
    view.show(text);
    return box.innerHTML !== drawn(text);
  });
}"""


@pytest.mark.parametrize("live", [True, False])
def test_a_text_that_grew_looks_like_one_that_came_whole(script_page: Any, live: bool) -> None:
    corpus = [one["markdown"] for name in DEVIATIONS for one in examples(name) if "$" not in one["markdown"]]
    corpus = [text for text in corpus if "\\[" not in text]  # formulas are drawn later
    texts = ["\n\n".join(corpus[at : at + 6]) for at in range(0, len(corpus), 6)]
    texts += [
        "- a\n**b**\n",
        "a\n-\n",
        "[x] and\n\n# b\n\n- c\n\n[x]: https://a.example\n",
        "a\r\n\r\nb\r\n\r\nc\r\n\r\nd",
    ]
    assert script_page.evaluate(GROWN, [texts, live]) == []


LONG = """async ({ part, count, tail }) => {
  const { MarkdownIt } = await import('/static/vendor/markdown-it/markdown-it.js');
  const { MarkdownView } = await import('/static/js/lib/markdown.js');
  const parse = MarkdownIt.prototype.parse;
  const parsed = [];
  MarkdownIt.prototype.parse = function (text, env) {
    parsed.push(text.length);
    return parse.call(this, text, env);
  };
  const box = document.createElement('div');
  document.body.replaceChildren(box);
  const view = new MarkdownView(box);
  const text = part.repeat(count) + tail;
  view.show(text.slice(0, 3 * part.length), true);
  const first = box.firstChild;
  getSelection().selectAllChildren(first);
  const chosen = getSelection().toString();
  for (let end = 3 * part.length; end <= text.length; end += 4) view.show(text.slice(0, end), true);
  view.show(text);
  return {
    most: Math.max(...parsed),
    isSame: box.firstChild === first,
    isChosen: chosen !== '' && getSelection().toString() === chosen,
    count: box.childNodes.length,
  };
}"""


def test_while_a_text_grows_only_its_end_is_parsed_and_what_stands_stays(script_page: Any) -> None:
    part = "A paragraph of **some** words, as models write them.\n\n"
    found = script_page.evaluate(LONG, {"part": part, "count": 300, "tail": "The end.\n"})
    assert found["isSame"] and found["isChosen"] and found["count"] == 301
    assert found["most"] <= 4 * len(part)


GROWING = """async (text) => {
  const { MarkdownView } = await import('/static/js/lib/markdown.js');
  const box = document.createElement('div');
  document.body.replaceChildren(box);
  const view = new MarkdownView(box);
  const half = text.length / 2;
  view.show(text.slice(0, half), true);
  const shown = box.querySelector('code, li').firstChild;
  getSelection().setBaseAndExtent(shown, 0, shown, 3);
  for (let end = half; end <= text.length; end++) view.show(text.slice(0, end), true);
  view.show(text);
  return [getSelection().toString(), shown.isConnected];
}"""


@pytest.mark.parametrize("line", ["one two three\n", "- one two three\n"])
def test_a_selection_in_the_block_that_grows_is_kept(script_page: Any, line: str) -> None:
    text = line * 20 if line.startswith("-") else f"```text\n{line * 20}"
    assert script_page.evaluate(GROWING, text) == ["one", True]


TRANSLATED = """() => {
  const { box, view } = window;
  const words = document.createElement('font');
  words.append('un');
  box.querySelector('p').replaceChildren(words);
  box.querySelector('li').append(document.createElement('font'));
  view.show('one two\\n\\n- three four');
  return box.innerText;
}"""


def test_a_page_that_the_browser_translates_goes_on(script_page: Any) -> None:
    show(script_page, "one\n\n- three")
    assert script_page.evaluate(TRANSLATED).split() == ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    "text", ["text\n-", "text\n##", "text\n- a\n*", "text\n|", "text\n2.", "text\n```", "text\n> -", "text\n==="]
)
def test_signs_that_may_yet_begin_a_block_wait_for_what_follows(script_page: Any, text: str) -> None:
    box = show(script_page, text, live=True)
    assert box.inner_text().split() in (["text"], ["text", "a"], ["text", ">"])
    assert box.locator("h3, h4, table, .md-code").count() == 0


def test_a_pathological_text_ends(script_page: Any) -> None:
    many = 20_000
    texts = ["\\(" * many, "$$" * many, "`" * many, "*a " * many, "[" * many, "> " * many, "- " * many]
    texts += [
        "|" * many,
        "| a |\n" + "-" + " " * many + "x",
        "a | b\n- | -\n" + "` | " * many,
        "<think>" * many,
        " " * many + "</think>",
    ]
    for text in texts:
        show(script_page, text)


RICH = """<think>hm</think>
- [x] done

| a | b |
| --- | --: |
| `x` | $y^2$ |

[doc](docs/x.md) https://a.example

```py
@cached
def f(x: int = 1) -> str:  # comment
    return f"{x}" + str(None)
```

```diff
- a
+ b
```
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(script_page: Any, scheme: str) -> None:
    script_page.emulate_media(color_scheme=scheme)
    box = show(script_page, RICH)
    box.locator(".hl-keyword").first.wait_for()
    box.locator("math").wait_for(state="attached")
    box.get_by_test_id("reasoning").click()
    assert [finding for finding in grave(script_page) if not finding.startswith("document-title")] == []
