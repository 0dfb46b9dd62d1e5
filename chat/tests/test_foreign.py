"""Files of other programs become conversations: OpenAI's messages, ShareGPT, Open WebUI; whole, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from chat import api, transfer
from chat.models import Conversation, Message

pytestmark = pytest.mark.django_db
URL = "/api/chat/import"


@pytest.fixture
def client() -> APIClient:
    client = APIClient()
    client.force_login(User.objects.create_user("owner"))
    return client


def said(pk: int) -> list[tuple[str, str, str | None]]:
    """(role, content, content of the parent) in order."""
    rows = Message.objects.filter(conversation=pk).select_related("parent")
    return [(row.role, row.content, row.parent.content if row.parent else None) for row in rows]


def node(parent: str | None, role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"parentId": parent, "role": role, "content": content, "childrenIds": [], "timestamp": 1, **more}


def web_chat(**nodes: Any) -> dict[str, Any]:
    history = {"messages": nodes or {"u": node(None, "user", "hi")}, "currentId": next(reversed(nodes), "u")}
    return {"id": "x", "title": "Sea", "chat": {"title": "old", "models": ["pirate"], "history": history}}


OPENAI = [
    {"role": "system", "content": "be brief"},
    {"role": "developer", "content": "and kind"},
    {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
    {"role": "assistant", "content": "ahoy", "refusal": None},
    {"role": "assistant", "content": None},
]


@pytest.mark.parametrize("data", [OPENAI, {"messages": OPENAI, "model": "pirate", "title": "Sea"}])
def test_messages_of_openai(client: APIClient, data: Any) -> None:
    made = client.post(URL, data, format="json")
    assert made.status_code == 201, made.content
    assert (made.json()["system"], made.json()["imported"]) == ("be brief\n\nand kind", 1)
    assert said(made.json()["id"]) == [
        ("user", "hel\n\nlo", None), ("assistant", "ahoy", "hel\n\nlo"), ("assistant", "", "ahoy")
    ]  # fmt: skip
    if isinstance(data, dict):
        assert (made.json()["title"], made.json()["target"]) == ("Sea", "pirate")
    assert made.json()["leaf"] == Message.objects.last().pk  # type: ignore[union-attr]


def test_sharegpt(client: APIClient) -> None:
    turns = [{"from": "system", "value": "be brief"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "arr"}]
    made = client.post(URL, {"id": "a1", "conversations": turns}, format="json").json()
    assert made["system"] == "be brief"
    assert said(made["id"]) == [("user", "hi", None), ("assistant", "arr", "hi")]


def test_open_webui_keeps_versions_and_what_was_shown(client: APIClient) -> None:
    chat = web_chat(
        c=node("b", "assistant", "deep", model="gone", modelName="Gone"),  # before its parent
        b=node("a", "user", "what is it?"),
        a=node(None, "assistant", "hello"),
        d=node("b", "assistant", "wet"),
    )
    chat["chat"]["history"]["currentId"] = "c"
    chat["chat"]["params"] = {"system": "be kind", "temperature": 1}
    made = client.post(URL, [chat, web_chat()], format="json")
    assert made.status_code == 201, made.content
    first = made.json()
    assert (first["title"], first["system"], first["target"], first["imported"]) == ("Sea", "be kind", "pirate", 2)
    assert said(first["id"]) == [
        ("assistant", "hello", None),
        ("user", "what is it?", "hello"),
        ("assistant", "deep", "what is it?"),
        ("assistant", "wet", "what is it?"),
    ]
    leaf = Message.objects.get(pk=first["leaf"])
    assert (leaf.content, leaf.target, leaf.target_name) == ("deep", "gone", "Gone")
    assert list(Conversation.objects.values_list("pk", flat=True))[0] == first["id"], "the first one is on top"


def test_a_list_may_hold_every_kind(client: APIClient) -> None:
    own = {"title": "ours", "messages": [{"id": 1, "role": "user", "content": "x"}]}
    sharegpt = {"conversations": [{"from": "human", "value": "y"}]}
    made = client.post(URL, [web_chat(), own, {"messages": OPENAI}, sharegpt], format="json")
    assert (made.status_code, made.json()["imported"]) == (201, 4)
    assert Conversation.objects.count() == 4


CIRCLE = web_chat(a=node("b", "user", "x"), b=node("a", "user", "y"))
LATE = [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ([], None),
        ({}, "messages"),
        ([web_chat(), "x"], "1.messages"),
        ([web_chat(), {}], "1.messages"),
        ([{"role": "tool", "content": "x"}], "messages.0.role"),
        (IMAGE, "messages.0.content"),
        ([{"role": "user", "content": 7}], "messages.0.content"),
        ([{"role": "user", "content": "\ud800"}], "messages.0.content"),
        ([{"role": "user", "content": "x" * 2001}], "messages.0.content"),
        (LATE, "messages.1.role"),
        ({"conversations": []}, "conversations"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "conversations.0.from"),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "system", "value": "x"}]},
            "conversations.1.from",
        ),
        ([web_chat(), CIRCLE], "1.chat.history.messages"),
        (web_chat(a=node(None, "tool", "x")), "chat.history.messages.a.role"),
        ({"chat": {"history": {"messages": []}}}, "chat.history.messages"),
        ({"chat": {}}, "chat.history"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name_and_leaves_nothing(
    client: APIClient, settings: Any, data: Any, param: str | None
) -> None:
    settings.MAX_PROMPT_CHARS = 2000
    refused = client.post(URL, json.dumps(data), content_type="application/json")  # also half a character
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.content
    assert not Conversation.objects.exists()


def test_a_file_is_bounded(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MOST_CHATS", 2)
    assert client.post(URL, [web_chat()] * 3, format="json").status_code == 400
    monkeypatch.setattr(transfer, "MOST_IMPORTED", 1)
    refused = client.post(URL, [web_chat()] * 2, format="json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many")
    monkeypatch.setattr(api, "MOST_CONVERSATIONS", 1)
    assert client.post(URL, [web_chat()] * 2, format="json").status_code == 409
    assert not Conversation.objects.exists()
    assert client.post(URL, web_chat(), format="json").status_code == 201


def test_a_failure_in_the_middle_leaves_nothing(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from chat import whole

    insert = whole._insert
    done: list[Any] = []

    def fail(new: Any, rows: Any) -> None:
        if done:
            raise RuntimeError
        done.append(new)
        insert(new, rows)

    monkeypatch.setattr(whole, "_insert", fail)
    client.raise_request_exception = False
    assert client.post(URL, [web_chat()] * 2, format="json").status_code == 500
    assert done and not Conversation.objects.exists()
