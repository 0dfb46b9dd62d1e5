"""An edited answer is a version beside the original, and says so."""

from __future__ import annotations

from typing import Any, cast

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from accounts.grants import Grant
from chat import flows
from chat.models import Conversation, Message, State
from chat.runs import Run
from common.api import ApiError
from inference.engine.params import SamplingParams
from inference.gateway.asking import Event

pytestmark = pytest.mark.django_db


@pytest.fixture
def client(owner: User) -> APIClient:
    client = APIClient()
    client.force_login(owner)
    return client


@pytest.fixture
def conversation(owner: User) -> Conversation:
    made = Conversation.objects.create(user=owner)
    question = Message.objects.create(conversation=made, role="user", content="what is the sea?")
    made.leaf = Message.objects.create(
        conversation=made, parent=question, role="assistant", content="dry", target="pirate", digest="d" * 64
    )
    made.save()
    return made


def edit(client: APIClient, conversation: Conversation, message: int | None, content: Any = "wet") -> Any:
    url = f"/api/chat/conversations/{conversation.pk}/versions"
    return client.post(url, {"message": message, "content": content}, format="json")


def test_the_original_stays_and_the_prompt_has_the_edited_one(client: APIClient, conversation: Conversation) -> None:
    original = conversation.leaf
    assert original is not None
    made = edit(client, conversation, original.pk, "  wet\n")
    assert made.status_code == 201, made.content
    version = made.json()
    assert (version["content"], version["parent"], version["info"]) == ("  wet\n", original.parent_id, {"edited": True})
    assert (version["target"], version["digest"], version["state"]) == ("pirate", "", "done")
    original.refresh_from_db()
    conversation.refresh_from_db()
    assert (original.content, original.info, conversation.leaf_id) == ("dry", {}, version["id"])
    assert [turn["content"] for turn in flows.prompt_of(conversation, version["id"])] == ["what is the sea?", "  wet\n"]


def test_the_mark_survives_that_a_model_goes_on(client: APIClient, conversation: Conversation) -> None:
    version = Message.objects.get(pk=edit(client, conversation, conversation.leaf_id).json()["id"])
    run = Run(version, flows.prompt_of(conversation, version.pk), SamplingParams(), cast(Grant, None), "en")
    run._take(cast(Event, {"id": "g", "type": "done", "finish_reason": "stop", "digest": "d"}))
    assert run.continues and run.info == {"edited": True, "finish_reason": "stop"}


def test_the_mark_survives_an_export(client: APIClient, conversation: Conversation) -> None:
    edit(client, conversation, conversation.leaf_id)
    Message.objects.filter(digest="d" * 64).update(info={"usage": {"completion_tokens": 1}})
    exported = client.get(f"/api/chat/conversations/{conversation.pk}/export.json").json()
    made = client.post("/api/chat/import", exported, format="json").json()
    again = client.get(f"/api/chat/conversations/{made['id']}").json()
    assert [message["info"] for message in again["messages"]] == [{}, {}, {"edited": True}]


def test_what_cannot_be_edited_is_refused(
    client: APIClient, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Message.objects.create(conversation=Conversation.objects.create(user=conversation.user), role="assistant")
    assert conversation.leaf is not None
    assert edit(client, conversation, other.pk).status_code == 404
    assert edit(client, conversation, conversation.leaf.parent_id).json()["error"]["param"] == "message"
    assert edit(client, conversation, conversation.leaf_id, "").json()["error"]["param"] == "content"
    running = Message.objects.create(
        conversation=conversation, parent=conversation.leaf.parent, role="assistant", state=State.RUNNING
    )
    assert edit(client, conversation, running.pk).status_code == 409
    monkeypatch.setattr(flows, "MOST_MESSAGES", 3)
    assert edit(client, conversation, conversation.leaf_id).json()["error"]["code"] == "too_many"
    with pytest.raises(ApiError) as caught:  # nor is there room for one more answer
        flows.again(conversation, conversation.leaf.parent_id or 0, "t", "t")
    assert caught.value.code == "too_many"
    assert Message.objects.filter(conversation=conversation).count() == 3
