"""The chat page in a real browser: hostile texts stay texts, an answer survives a reload, people see only their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.portal import Portal

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<svg/onload=window.hit=1>",
    "<iframe srcdoc='<script>parent.hit = 1</script>'></iframe>",
    "[go](javascript:window.hit=1) [go](data:text/html,<script>1</script>) [go](vbscript:x)",
    "[go](java\tscript:window.hit=1) [go](JaVaScRiPt:window.hit=1) <javascript:window.hit=1>",
    "![x](https://elsewhere.invalid/pixel.png) ![x](x 'onerror=window.hit=1')",
    '[x](https://ok.invalid/"onmouseover="window.hit=1)',
    "```html\n<script>window.hit = 1</script>\n```\n`<img src=x onerror=window.hit=1>`",
    "| <img src=x onerror=window.hit=1> | b |\n| --- | --- |\n| <script>window.hit=1</script> | [x](javascript:1) |",
    "$$\\href{javascript:window.hit=1}{x}$$ $\\htmlStyle{background:url(//x.invalid)}{x}$ \\(\\url{javascript:1}\\)",
    "> <b onclick=window.hit=1>x\n\n1. <a href=javascript:window.hit=1>x</a>\n   - **<i onload=window.hit=1>**",
    "<style>*{display:none}</style><form action=//x.invalid><input autofocus onfocus=window.hit=1>",
    "<think>\n<script>window.hit=1</script>\n</think>\n[x](javascript:window.hit=1 'a\" onmouseover=window.hit=1 b')",
    '```js" onclick=x\nx\n```\n| a | b |\n|--|--|\n| `<img src=x onerror=window.hit=1> | x` | <br onload=1> |',
    "<https://ok.invalid/'onclick='window.hit=1'> www.ok.invalid/\"onclick=x [x]\n\n[x]: javascript:window.hit=1",
    "&lt;script&gt;window.hit=1&lt;/script&gt; \u202e<script>window.hit=1</script>\x00",
]
# What may never come out of a text, however much of it has arrived.
BAD = """(box) => [...box.querySelectorAll('*')].flatMap((node) => {
  const banned = 'script img iframe object embed style form link meta video audio'.split(' ');
  const found = banned.includes(node.localName) ? [node.localName] : [];
  for (const { name, value } of node.attributes) {
    if (name.startsWith('on') || ['style', 'srcdoc'].includes(name)) found.push(name);
    const address = ['href', 'src', 'xlink:href', 'action'].includes(name) && node.localName !== 'use';
    if (address && !/^(https?:\\/\\/|mailto:)/.test(value)) found.push(`${name}=${value}`);
  }
  return found;
})"""


def test_hostile_texts_stay_texts_at_every_length(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "owner")
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if not request.url.startswith(portal.url) else None)
    page.goto("/chat")
    page.locator("html[data-ready=true]").wait_for()
    page.evaluate(
        """async (texts) => {
          const { MarkdownView } = await import('/static/js/lib/markdown.js');
          for (const text of texts) {
            const box = document.createElement('div');
            box.className = 'grown';
            document.body.append(box);
            const view = new MarkdownView(box);
            for (let end = 1; end <= text.length; end++) view.show(text.slice(0, end));
          }
        }""",
        HOSTILE,
    )
    page.wait_for_load_state("networkidle")  # formulas are drawn when their library has come
    boxes = page.locator(".grown")
    assert boxes.count() == len(HOSTILE)
    for index, text in enumerate(HOSTILE):
        assert boxes.nth(index).evaluate(BAD) == [], text
    assert page.evaluate("window.hit") is None
    assert outside == []


def test_a_stored_conversation_is_shown_as_text(portal: Portal, sign_in: Callable[..., Any]) -> None:
    messages: list[dict[str, Any]] = []
    for number, text in enumerate(HOSTILE):
        asked = {"id": 2 * number + 1, "parent": 2 * number or None, "role": "user", "content": text}
        answered = {"id": 2 * number + 2, "parent": 2 * number + 1, "role": "assistant", "content": text}
        messages += [asked, answered]
    title = "<img src=x onerror=window.hit=1></title><script>window.hit=1</script>"
    made = portal.api("POST", "/api/chat/import", {"title": title, "messages": messages}, user="owner")
    assert made.status == 201, made.text
    page = sign_in(portal, "owner")
    page.goto(f"/chat/{made.json()['id']}")
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_test_id("message-assistant").count() == len(HOSTILE)
    assert page.locator("[data-messages]").evaluate(BAD) == []
    assert page.get_by_test_id("chat-title").inner_text() == title
    assert page.evaluate("window.hit") is None


def test_ask_reload_in_mid_stream_stop_and_others(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "owner")
    assert portal.api("POST", "/api/lora/scan").status == 200
    page.goto("/chat")
    page.get_by_test_id("chat-settings-open").click()
    page.get_by_test_id("max-tokens").fill("400")
    page.get_by_test_id("settings-done").click()
    page.get_by_test_id("chat-target").select_option("tiny-llama")
    page.get_by_test_id("chat-input").fill("hello")
    page.keyboard.press("Enter")
    answer = page.get_by_test_id("message-assistant")
    answer.wait_for()
    page.wait_for_url("**/chat/*")
    page.reload()
    answer.wait_for()
    # In one step: between a look and a press the answer may end, and the button go.
    page.get_by_test_id("chat-stop").evaluate("(button) => button.checkVisibility() && button.click()")
    page.get_by_test_id("message-again").wait_for()
    assert answer.get_attribute("data-state") in ("stopped", "done")
    number = page.url.rpartition("/")[2]
    kept = portal.api("GET", f"/api/chat/conversations/{number}", user="owner").json()["messages"][-1]
    page.reload()
    answer.wait_for()
    assert page.locator("[data-id]", has=page.locator(".md")).count() == 2
    assert kept["state"] == answer.get_attribute("data-state")

    other = sign_in(portal, "outsider")
    assert other.goto(f"/chat/{number}").status == 404
    other.goto("/chat")
    assert other.get_by_test_id("conversations").locator("a").count() == 0


# `window.unended`: the page does not hear of an answer's end, for a tiny model may stop at any word.
SOCKETS = """(() => {
  const Plain = WebSocket;
  window.sockets = [];
  window.WebSocket = class extends Plain {
    constructor(...words) {
      super(...words);
      window.sockets.push(this);
      this.addEventListener('message', (event) => {
        if (window.unended && JSON.parse(event.data).type === 'done') event.stopImmediatePropagation();
      });
    }
  };
})()"""


def begin(page: Any, text: str, tokens: str) -> None:
    """Ask the base model in a new conversation."""
    page.goto("/chat?model=tiny-llama")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("chat-settings-open").click()
    page.get_by_test_id("max-tokens").fill(tokens)
    page.get_by_test_id("settings-done").click()
    page.get_by_test_id("chat-input").fill(text)
    page.keyboard.press("Enter")
    page.get_by_test_id("message-assistant").first.wait_for()


def test_a_question_that_arrived_before_the_connection_went_is_not_asked_twice(
    portal: Portal, sign_in: Callable[..., Any]
) -> None:
    page = sign_in(portal, "teammate")
    page.add_init_script(SOCKETS)
    begin(page, "one", "5")
    page.get_by_test_id("message-again").wait_for()
    page.evaluate("""() => {
      const last = sockets.at(-1);
      const send = last.send.bind(last);
      last.send = (text) => { send(text); setTimeout(() => last.close(), 0); };
    }""")
    page.get_by_test_id("chat-input").fill("two")
    page.keyboard.press("Enter")
    page.get_by_test_id("message-user").nth(1).wait_for()
    page.get_by_test_id("message-again").nth(1).wait_for()
    assert page.get_by_test_id("chat-input").input_value() == ""
    number = page.url.rpartition("/")[2]
    kept = portal.api("GET", f"/api/chat/conversations/{number}", user="teammate").json()["messages"]
    assert [message["content"] for message in kept if message["role"] == "user"] == ["one", "two"]


def test_an_ended_session_is_told_and_the_page_goes_on_after_signing_in(
    portal: Portal, sign_in: Callable[..., Any]
) -> None:
    page = sign_in(portal, "owner")
    page.add_init_script(SOCKETS)
    page.add_init_script("window.unended = true")
    begin(page, "one", "1500")
    page.get_by_test_id("chat-input").fill("typed meanwhile")
    cookies = page.context.cookies()
    page.context.clear_cookies()
    page.evaluate("() => sockets.at(-1).close()")
    notice = page.locator("[data-notice]")
    notice.filter(has_text="signed out").wait_for()
    page.context.add_cookies(cookies)
    page.evaluate("() => { window.unended = false; window.dispatchEvent(new Event('focus')); }")
    notice.wait_for(state="hidden")
    page.keyboard.press("Escape")
    page.get_by_test_id("message-again").wait_for()
    assert page.get_by_test_id("chat-input").input_value() == "typed meanwhile"


def test_markdown_is_imported_and_an_absent_model_stays_chosen(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "outsider")
    page.goto("/chat")
    page.locator("html[data-ready=true]").wait_for()
    text = "# Sea\n\n<!-- user -->\n## You\n\nhello\n\n<!-- assistant gone -->\n## Gone\n\n**ahoy**\n"
    file = {"name": "sea.md", "mimeType": "text/markdown", "buffer": text.encode()}
    page.locator("[data-import-file]").set_input_files(file)
    page.wait_for_url("**/chat/*")
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_test_id("chat-title").inner_text() == "Sea"
    assert page.get_by_test_id("message-assistant").locator("strong", has_text="ahoy").count() == 1
    assert page.get_by_test_id("chat-target").input_value() == "gone"
    assert page.get_by_test_id("chat-unknown").is_visible()
    page.get_by_test_id("chat-input").fill("and now?")
    page.keyboard.press("Enter")
    page.get_by_test_id("toast").wait_for()
    assert page.get_by_test_id("chat-input").input_value() == "and now?"  # nobody else answered
    page.get_by_test_id("chat-target").select_option("tiny-llama")
    page.get_by_test_id("chat-unknown").wait_for(state="detached")


def test_an_edit_is_sent_and_given_up_by_keys(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "teammate")
    begin(page, "one", "5")
    page.get_by_test_id("message-again").wait_for()
    page.get_by_test_id("message-edit").click()
    page.get_by_test_id("edit-text").fill("two")
    page.keyboard.press("Escape")
    assert page.get_by_test_id("message-user").inner_text().startswith("one")
    page.get_by_test_id("message-edit").click()
    page.get_by_test_id("edit-text").fill("two")
    page.keyboard.press("Control+Enter")
    page.get_by_test_id("message-user").filter(has_text="two").wait_for()
    page.get_by_test_id("message-again").wait_for()


def test_older_conversations_come_when_they_are_asked_for(portal: Portal, sign_in: Callable[..., Any]) -> None:
    for number in range(104):
        portal.api("POST", "/api/chat/conversations", {"title": f"number {number}"}, user="teammate")
    stored = portal.api("GET", "/api/chat/conversations", user="teammate").json()["count"]
    page = sign_in(portal, "teammate")
    page.goto("/chat")
    page.locator("html[data-ready=true]").wait_for()
    oldest_shown = page.get_by_test_id("conversations").locator("a").last.inner_text()
    entries = page.get_by_test_id("conversations").locator("a")
    assert entries.count() == 100
    page.get_by_test_id("more-chats").click()
    page.get_by_text("number 0", exact=True).wait_for()
    assert entries.count() == stored and not page.get_by_test_id("more-chats").is_visible()
    assert page.evaluate("document.activeElement.dataset.id") == entries.nth(100).get_attribute("data-id")
    assert entries.nth(99).inner_text() == oldest_shown, "what was listed stays where it was"
    page.get_by_test_id("chat-search").fill("number 10")
    page.wait_for_function("() => document.querySelectorAll('[data-conversations] a').length === 5")
    assert not page.get_by_test_id("more-chats").is_visible()


def test_a_second_window_does_not_fork_the_conversation(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "teammate")
    begin(page, "one", "5")
    page.get_by_test_id("message-again").wait_for()
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("chat-input").fill("two")
    page.keyboard.press("Enter")
    page.get_by_test_id("message-again").nth(1).wait_for()
    other.get_by_test_id("chat-menu").click()
    other.get_by_test_id("chat-rename").click()
    other.get_by_test_id("rename-text").fill("renamed")
    other.get_by_test_id("rename-save").click()
    other.get_by_role("heading", name="renamed").wait_for()
    other.get_by_test_id("chat-input").fill("three")
    other.keyboard.press("Enter")
    other.get_by_test_id("toast").filter(has_text="another window").wait_for()
    assert other.get_by_test_id("message-user").count() == 2
    assert other.get_by_test_id("chat-input").input_value() == "three"
    other.keyboard.press("Enter")
    other.get_by_test_id("message-again").nth(2).wait_for()
    number = page.url.rpartition("/")[2]
    kept = portal.api("GET", f"/api/chat/conversations/{number}", user="teammate").json()["messages"]
    assert len({message["parent"] for message in kept}) == len(kept) == 6


def test_a_draft_stays_in_its_conversation_and_a_name_is_no_space(portal: Portal, sign_in: Callable[..., Any]) -> None:
    one, two = (
        portal.api("POST", "/api/chat/conversations", {"title": name}, user="outsider").json()["id"] for name in "ab"
    )
    page = sign_in(portal, "outsider")
    draft = page.get_by_test_id("chat-input")
    for path, text in ((f"/chat/{one}", "for one"), ("/chat", "for a new one")):
        page.goto(path)
        page.locator("html[data-ready=true]").wait_for()
        draft.fill(text)
    drafts = {}
    for path in (f"/chat/{two}", f"/chat/{one}", "/chat"):
        page.goto(path)
        page.locator("html[data-ready=true]").wait_for()
        drafts[path] = draft.input_value()
    assert list(drafts.values()) == ["", "for one", "for a new one"]
    page.goto(f"/chat/{one}")
    page.locator("html[data-ready=true]").wait_for()
    page.get_by_test_id("chat-menu").click()
    page.get_by_test_id("chat-rename").click()
    page.get_by_test_id("rename-text").fill("   ")
    page.get_by_test_id("rename-save").click()
    page.get_by_test_id("rename-error").wait_for()
    assert portal.api("GET", f"/api/chat/conversations/{one}", user="outsider").json()["title"] == "a"
