"""The daily work in chat, in a real browser: versions, other models, facts in the head, files, the list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.portal import Portal

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(autouse=True)
def scanned(portal: Portal) -> None:
    """There are models, whichever test comes first."""
    portal.api("POST", "/api/lora/scan")


def kept(portal: Portal, title: str, turns: int = 1, **more: Any) -> int:
    """Id of a new conversation of `owner` with so many questions and answers."""
    messages = []
    for number in range(turns):
        messages += [{"role": "user", "content": f"what is the sea? {number}"}]
        messages += [{"role": "assistant", "content": f"it is wet {number}"}]
    data = {"title": title, "messages": messages, "model": "tiny-llama", **more}
    made = portal.api("POST", "/api/chat/import", data, user="owner")
    assert made.status == 201, made.text
    return int(made.json()["id"])


def opened(page: Any, path: str) -> None:
    page.goto(path)
    page.locator("html[data-ready=true]").wait_for()


def test_an_answer_is_edited_and_given_again_by_another_model(portal: Portal, sign_in: Callable[..., Any]) -> None:
    adapters = portal.api("GET", "/api/lora/models").json()["results"]
    first = next(adapter for adapter in adapters if adapter["name"] == "first")
    if first["status"] != "active":
        assert portal.api("POST", f"/api/lora/models/{first['id']}/activate").status == 200
    number = kept(portal, "edited")
    page = sign_in(portal, "owner")
    opened(page, f"/chat/{number}")
    answer = page.get_by_test_id("message-assistant")
    answer.get_by_test_id("message-edit-answer").click()
    page.get_by_test_id("edit-text").fill("it is **deep**")
    page.keyboard.press("Control+Enter")
    answer.get_by_test_id("edited").wait_for()
    assert answer.locator("strong", has_text="deep").count() == 1
    answer.get_by_test_id("message-before").click()
    answer.filter(has_text="it is wet").wait_for()
    assert answer.get_by_test_id("edited").count() == 0

    page.get_by_test_id("chat-settings-open").click()
    page.get_by_test_id("max-tokens").fill("5")
    page.get_by_test_id("settings-done").click()
    answer.get_by_test_id("message-again-with").click()
    page.get_by_test_id("again-target").evaluate(
        "(select, slug) => { select.value = slug; select.dispatchEvent(new Event('change', { bubbles: true })); }",
        first["slug"],
    )
    page.get_by_test_id("again-send").click()
    answer.get_by_text("3/3").wait_for()
    answer.get_by_test_id("message-again").wait_for()
    assert page.get_by_test_id("chat-target").input_value() == first["slug"]
    messages = portal.api("GET", f"/api/chat/conversations/{number}", user="owner").json()["messages"]
    assert [message["target"] for message in messages[1:]] == ["tiny-llama", "tiny-llama", first["slug"]]
    assert [message["info"].get("edited", False) for message in messages[1:]] == [False, True, False]


def test_the_head_tells_what_is_asked_with(portal: Portal, sign_in: Callable[..., Any]) -> None:
    number = kept(portal, "facts")
    portal.api("PATCH", f"/api/chat/conversations/{number}", {"system": "be\nbrief"}, user="owner")
    page = sign_in(portal, "owner", viewport={"width": 390, "height": 800})
    opened(page, f"/chat/{number}")
    assert page.get_by_test_id("facts-system").inner_text() == "System prompt: be brief"
    page.get_by_test_id("chat-facts").click()
    page.get_by_test_id("chat-system").fill("")
    page.get_by_test_id("temperature").fill("1.5")
    page.get_by_test_id("stop-strings").evaluate("(field) => { field.closest('details').open = true; }")
    page.get_by_test_id("stop-strings").fill("END")
    page.get_by_test_id("settings-done").click()
    page.get_by_test_id("facts-system").filter(has_text="No system prompt").wait_for()
    shown = page.get_by_test_id("facts-parameters").text_content()
    assert "Temperature 1.5" in shown and shown.endswith("END")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_latest_message_is_one_press_away(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "owner")
    opened(page, f"/chat/{kept(portal, 'long', 30)}")
    latest = page.get_by_test_id("chat-latest")
    assert not latest.is_visible()
    page.get_by_test_id("chat-log").evaluate("(log) => (log.scrollTop = 0)")
    latest.click()
    latest.wait_for(state="hidden")
    last = page.get_by_test_id("message-assistant").last
    assert last.evaluate("(one) => one.getBoundingClientRect().bottom <= innerHeight")
    last.get_by_test_id("message-edit-answer").click()
    end = page.get_by_test_id("edit-send").bounding_box()
    assert end["y"] + end["height"] <= page.locator("[data-composer]").bounding_box()["y"] + 1, "its buttons are seen"


def test_a_text_file_is_seen_before_it_is_sent(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "owner")
    opened(page, "/chat?model=tiny-llama")
    field, file = page.get_by_test_id("chat-input"), page.locator("[data-attach-file]")
    field.fill("Explain:")
    text = "one\r\n```\ntwo\n````\n"
    file.set_input_files({"name": "a`b.py", "mimeType": "text/x-python", "buffer": text.encode()})
    page.wait_for_function("() => document.querySelector('[name=content]').value.includes('one')")
    assert field.input_value() == "Explain:\n\n`ab.py`\n\n`````python\none\n```\ntwo\n````\n`````\n\n"
    draft = field.input_value()
    for name, content in (("x.bin", b"\xff\xfe"), ("y.txt", b"a\0b"), ("long.txt", b"x" * 200_001)):
        file.set_input_files({"name": name, "mimeType": "text/plain", "buffer": content})
        page.get_by_test_id("toast").filter(has_text=name).wait_for()
    assert field.input_value() == draft
    field.fill("")


def test_the_list_has_dates_pins_snippets_and_a_choice(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "owner")
    first, second, third = (kept(portal, name) for name in ("one", "two", "three"))
    opened(page, f"/chat/{first}")
    entry = page.get_by_test_id("conversations").locator("a")
    assert entry.first.inner_text().startswith("three") and ":" in entry.first.locator("time").inner_text()
    page.get_by_test_id("chat-menu").click()
    page.get_by_test_id("chat-pin").click()
    page.wait_for_function("(id) => document.querySelector('[data-conversations] a').dataset.id === id", arg=str(first))
    page.get_by_test_id("chat-search").fill("SEA? 0")
    page.get_by_test_id("snippet").first.wait_for()
    assert page.get_by_test_id("snippet").first.inner_text() == "what is the sea? 0"
    assert page.get_by_test_id("snippet").first.locator("mark").inner_text() == "sea? 0"
    page.get_by_test_id("chat-search").fill("")
    page.get_by_test_id("snippet").first.wait_for(state="detached")

    page.get_by_test_id("select-chats").press("Enter")
    for number in (second, third):
        page.locator(f"[data-choose][value='{number}']").press("Space")
    page.get_by_test_id("chats-delete").click()
    page.get_by_role("heading", name="Delete 2 conversations?").wait_for()
    page.keyboard.press("Escape")
    assert portal.api("GET", f"/api/chat/conversations/{second}", user="owner").status == 200
    page.get_by_test_id("chats-delete").click()
    page.get_by_test_id("chats-delete-confirm").click()
    page.locator(f"[data-conversations] [data-id='{second}']").wait_for(state="detached")
    left = [portal.api("GET", f"/api/chat/conversations/{one}", user="owner").status for one in (first, second, third)]
    assert left == [200, 404, 404]
    assert page.locator("[data-choose]").count() == 0


def test_tokens_are_coloured_by_their_probability(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "owner")
    opened(page, f"/chat/{kept(portal, 'likely')}")
    page.get_by_test_id("chat-settings-open").click()
    page.get_by_test_id("max-tokens").fill("5")
    page.get_by_test_id("temperature").fill("0")  # (By chance the first token would end the answer.)
    page.get_by_test_id("chat-logprobs").check()
    page.get_by_test_id("settings-done").click()
    page.get_by_test_id("message-again").click()
    shown = page.get_by_test_id("message-tokens")
    shown.wait_for()
    address = f"/api/chat/conversations/{page.url.rpartition('/')[2]}"
    messages = portal.api("GET", address, user="owner").json()["messages"]
    assert shown.text_content() == messages[-1]["content"]
    shown.get_by_test_id("token").first.focus()
    page.get_by_test_id("token-tip").filter(has_text="%").wait_for()
    page.get_by_test_id("message-colour").click()
    shown.wait_for(state="detached")
    page.reload()
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_test_id("chat-logprobs").is_checked()

    opened(page, "/test?model=tiny-llama")
    page.get_by_test_id("prompt-input").fill("hello")
    page.get_by_test_id("max-tokens").fill("5")
    page.get_by_test_id("temperature").fill("0")
    page.get_by_test_id("logprobs").check()
    page.get_by_test_id("send-button").click()
    page.get_by_test_id("stats").wait_for()
    page.get_by_test_id("output").get_by_test_id("token").first.focus()
    page.get_by_test_id("token-tip").filter(has_text="%").wait_for()


def test_a_link_is_made_read_and_revoked(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "owner")
    opened(page, f"/chat/{kept(portal, 'shared', system='x')}")
    page.get_by_test_id("chat-menu").click()
    page.get_by_test_id("chat-share").click()
    page.get_by_test_id("share-make").click()
    page.get_by_test_id("share-revoke").wait_for()
    link = page.get_by_test_id("share-link").input_value()
    assert link.startswith(portal.url)
    # As over plain http: without the clipboard, from inside a dialog, where the rest of the page takes no focus.
    page.evaluate("() => Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.evaluate("() => addEventListener('copy', () => (window.copied = document.activeElement.value))")
    page.locator("[data-share-copy]").click()
    page.wait_for_function("(link) => window.copied === link", arg=link)
    other = sign_in(portal, "outsider", viewport={"width": 390, "height": 800})
    opened(other, link)
    assert other.get_by_test_id("message-assistant").inner_text().endswith("it is wet 0")
    assert other.locator("main button, main textarea").count() == 0
    assert other.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_test_id("share-revoke").click()
    page.get_by_test_id("share-make").wait_for()
    assert other.reload().status == 404


def test_a_conversation_is_moved_into_a_folder(portal: Portal, sign_in: Callable[..., Any]) -> None:
    page = sign_in(portal, "teammate")
    numbers = [
        portal.api("POST", "/api/chat/conversations", {"title": title}, user="teammate").json()["id"]
        for title in ("in", "out")
    ]
    opened(page, f"/chat/{numbers[0]}")
    folders = page.get_by_test_id("chat-folders")
    assert not folders.is_visible()
    page.get_by_test_id("chat-menu").click()
    page.get_by_test_id("chat-move").click()
    page.get_by_test_id("move-folder").fill("Sea <b>")
    page.get_by_test_id("move-save").click()
    folders.wait_for()
    folders.select_option("Sea <b>")
    page.wait_for_function("() => document.querySelectorAll('[data-conversations] a').length === 1")
    assert page.get_by_test_id("conversations").locator("a").get_attribute("data-id") == str(numbers[0])
    page.reload()
    assert folders.locator("option").nth(1).inner_text() == "Sea <b> (1)"
