"""Conversations over HTTP: export and import, search, and answers whose process is gone."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from chat.flows import prompt_of
from chat.models import STALE, Conversation, Message, State

pytestmark = pytest.mark.django_db
URL = "/api/chat/conversations"


@pytest.fixture
def client() -> APIClient:
    client = APIClient()
    client.force_login(User.objects.create_user("owner"))
    return client


@pytest.fixture
def conversation(client: APIClient) -> Conversation:
    made = Conversation.objects.create(user=User.objects.get(), title="sea", system="be brief")
    question = Message.objects.create(conversation=made, role="user", content="what is the sea?")
    Message.objects.create(conversation=made, parent=question, role="assistant", content="wet", target="pirate")
    made.leaf = Message.objects.create(conversation=made, parent=question, role="assistant", content="deep")
    made.save()
    return made


def shape(data: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    contents = {message["id"]: message["content"] for message in data["messages"]}
    return [(m["role"], m["content"], contents.get(m["parent"])) for m in data["messages"]]


def test_an_export_comes_back_whole(client: APIClient, conversation: Conversation) -> None:
    exported = client.get(f"{URL}/{conversation.pk}/export.json").json()
    made = client.post("/api/chat/import", exported, format="json")
    assert made.status_code == 201
    again = client.get(f"{URL}/{made.json()['id']}").json()
    assert shape(again) == shape(exported)
    assert (again["title"], again["system"]) == ("sea", "be brief")
    assert next(m for m in again["messages"] if m["id"] == again["leaf"])["content"] == "deep"


def test_markdown_has_the_branch_that_is_shown(client: APIClient, conversation: Conversation) -> None:
    text = client.get(f"{URL}/{conversation.pk}/export.md").content.decode()
    assert "what is the sea?" in text and "deep" in text and "wet" not in text


def test_markdown_comes_back_whatever_the_texts_hold(client: APIClient, conversation: Conversation) -> None:
    texts = [
        "## You\n\n# x\n> y",
        "<!-- user -->\n\\<!-- assistant pirate -->\n## pirate",
        "\u4f60\u597d\n\n```\n## You\n```",
    ]
    conversation.system = "be brief\n\n> and kind"
    parent = conversation.leaf
    for text in texts:
        parent = Message.objects.create(conversation=conversation, parent=parent, role="user", content=text)
        parent = Message.objects.create(
            conversation=conversation, parent=parent, role="assistant", content=text, target="pirate", target_name="P"
        )
    conversation.leaf = parent
    conversation.save()
    text = client.get(f"{URL}/{conversation.pk}/export.md").content.decode()
    made = client.post("/api/chat/import", {"markdown": text}, format="json")
    assert made.status_code == 201, made.content
    again = client.get(f"{URL}/{made.json()['id']}").json()
    assert (again["title"], again["system"], again["target"]) == ("sea", "be brief\n\n> and kind", "pirate")
    contents = ["what is the sea?", "deep", *[text for text in texts for _twice in range(2)]]
    assert [message["content"] for message in again["messages"]] == contents
    assert [message["role"] for message in again["messages"]] == ["user", "assistant"] * 4
    assert (again["messages"][-1]["target"], again["messages"][-1]["target_name"]) == ("pirate", "P")
    assert again["leaf"] == again["messages"][-1]["id"]


def test_markdown_written_by_hand_is_read_by_its_headings(client: APIClient) -> None:
    text = "# Talk\n\n> be kind\n\n## You\n\nhello\n\n## pirate\n\nahoy\n\n## \u4f60\n\nbye\n"
    made = client.post("/api/chat/import", {"markdown": text}, format="json").json()
    again = client.get(f"{URL}/{made['id']}").json()
    assert [(m["role"], m["content"]) for m in again["messages"]] == [
        ("user", "hello"), ("assistant", "ahoy"), ("user", "bye")
    ]  # fmt: skip
    assert (again["title"], again["system"]) == ("Talk", "be kind")


def test_parameters_come_back_and_wrong_ones_are_refused(client: APIClient, conversation: Conversation) -> None:
    Conversation.objects.update(params={"temperature": 0.5, "stop": ["x"]})
    exported = client.get(f"{URL}/{conversation.pk}/export.json").json()
    made = client.post("/api/chat/import", exported, format="json").json()
    assert made["params"] == {"temperature": 0.5, "stop": ["x"]}
    refused = client.post("/api/chat/import", {**exported, "params": {"temperature": "hot"}}, format="json")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "params.temperature")


@pytest.mark.parametrize("text", ["", "only words\n\nand more", "# A title alone"])
def test_markdown_without_messages_is_refused(client: APIClient, text: str) -> None:
    response = client.post("/api/chat/import", {"markdown": text}, format="json")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "markdown")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"messages": "x"},
        {"messages": [{"id": 1, "role": "system", "content": "x"}]},
        {"messages": [{"id": 1, "role": "user", "content": "x", "parent": 2}]},
        {"messages": [{"id": 1, "role": "user", "content": "x"}, {"id": 1, "role": "user", "content": "y"}]},
        {"messages": [{"id": "1", "role": "user", "content": "x"}]},
        {"messages": [{"id": 1, "role": "user", "content": {"x": 1}}]},
    ],
)
def test_a_bad_import_leaves_nothing(client: APIClient, data: dict[str, Any]) -> None:
    response = client.post("/api/chat/import", data, format="json")
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("messages")
    assert not Conversation.objects.exists()


def test_search_looks_into_titles_and_messages(client: APIClient, conversation: Conversation) -> None:
    assert client.get(URL, {"search": "SEA"}).json()["count"] == 1
    assert client.get(URL, {"search": "deep"}).json()["count"] == 1
    assert client.get(URL, {"search": "mountain"}).json()["count"] == 0


def test_an_answer_whose_process_is_gone_reads_as_stopped(client: APIClient, conversation: Conversation) -> None:
    leaf = conversation.leaf
    assert leaf is not None
    Message.objects.filter(pk=leaf.pk).update(state=State.RUNNING, updated_at=timezone.now() - 2 * STALE)
    states = {m["id"]: m["state"] for m in client.get(f"{URL}/{conversation.pk}").json()["messages"]}
    assert states[leaf.pk] == "stopped"


def test_questions_without_an_answer_are_no_part_of_the_prompt(conversation: Conversation) -> None:
    lost = Message.objects.create(conversation=conversation, parent=conversation.leaf, role="user", content="lost?")
    empty = Message.objects.create(conversation=conversation, parent=lost, role="assistant", state=State.FAILED)
    now = Message.objects.create(conversation=conversation, parent=empty, role="user", content="now?")
    assert [turn["content"] for turn in prompt_of(conversation, now.pk)] == [
        "be brief",
        "what is the sea?",
        "deep",
        "now?",
    ]


@pytest.mark.parametrize("title", ["", "   "])
def test_a_title_is_no_empty_one(client: APIClient, conversation: Conversation, title: str) -> None:
    refused = client.patch(f"{URL}/{conversation.pk}", {"title": title}, format="json")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "title")
    conversation.refresh_from_db()
    assert conversation.title == "sea"


def test_a_page_reads_its_messages_once(client: APIClient, conversation: Conversation) -> None:
    with CaptureQueriesContext(connection) as asked:
        assert client.get(f"/chat/{conversation.pk}").status_code == 200
    assert sum('FROM "chat_message"' in query["sql"].replace("`", '"') for query in asked) == 1
