"""`/api/assistants`: the form's rules over JSON, whose is whose, answers alone and in a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.db import connection
from rest_framework.test import APIClient

from accounts.grants import Grant
from adapters.models import LoraAdapter
from chat import assistant_api, flows
from chat.models import Assistant, Conversation, Message, State
from chat.runs import Run
from common.api import ApiError
from inference.engine.params import SamplingParams
from inference.gateway.targets import find
from inference.manager import ModelManager
from inference.models import UsageDay
from inference.quota.ledger import ledger

pytestmark = pytest.mark.django_db(transaction=True)
GOOD: dict[str, Any] = {
    "name": "Flint",
    "target": "pirate",
    "system": "be brief",
    "params": {"temperature": 0.5, "max_tokens": 40},
    "samples": ["a?", "b?"],
}


@pytest.fixture
def client(api: Callable[..., APIClient], owner: User, registry: SimpleNamespace) -> APIClient:
    return api(owner, "infer")


@pytest.fixture
def flint(client: APIClient) -> int:
    return int(client.post("/api/assistants", GOOD, format="json").json()["id"])


def change(client: APIClient, pk: int, **fields: Any) -> Any:
    return client.patch(f"/api/assistants/{pk}", fields, format="json")


def ask(client: APIClient, pk: int, message: Any = "hello", **fields: Any) -> Any:
    return client.post(f"/api/assistants/{pk}/chat", {"message": message, **fields}, format="json")


def begin(client: APIClient, pk: int, **fields: Any) -> Any:
    return client.post("/api/chat/conversations", {"assistant": pk, **fields}, format="json")


def test_made_read_changed_and_deleted(client: APIClient, owner: User) -> None:
    made = client.post("/api/assistants", GOOD, format="json")
    assert made.status_code == 201
    body = made.json()
    assert {name: body[name] for name in GOOD} == GOOD
    assert (body["owner"], body["mine"], body["icon"], body["shared"]) == ("owner", True, "robot", False)
    assert body["problem"] is None

    changed = change(client, body["id"], name="Silver", shared=True, params={"top_p": 0.9}).json()
    assert (changed["name"], changed["shared"], changed["params"]) == ("Silver", True, {"top_p": 0.9})
    assert (changed["system"], changed["samples"]) == ("be brief", ["a?", "b?"])  # what was not named stays
    assert client.get(f"/api/assistants/{body['id']}").json() == changed

    listed = client.get("/api/assistants").json()
    assert (listed["count"], listed["results"][0]["name"]) == (1, "Silver")
    assert client.delete(f"/api/assistants/{body['id']}").status_code == 204
    assert not Assistant.objects.exists()


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"name": ""}, "required", "name"),
        ({"name": "x" * 81}, "too_long", "name"),
        ({"name": 5}, "invalid_type", "name"),
        ({"name": "nul \0"}, "invalid", "name"),
        ({"target": "nobody"}, "invalid", "target"),
        ({"target": "idle"}, "invalid", "target"),
        ({"icon": "skull"}, "invalid_choice", "icon"),
        ({"shared": "yes"}, "invalid_type", "shared"),
        ({"params": {"temperature": 3}}, "out_of_range", "params.temperature"),
        ({"params": {"max_tokens": True}}, "invalid_type", "params.max_tokens"),
        ({"params": {"seed": 3}}, "unknown_parameter", "params.seed"),
        ({"samples": ["x"] * 7}, "invalid", "samples"),
        ({"samples": ["x" * 301]}, "too_long", "samples.0"),
        ({"samples": ["a", "two\nlines"]}, "invalid", "samples.1"),
        ({"samples": "a"}, "invalid_type", "samples"),
        ({"owner": "me"}, "unknown_parameter", "owner"),
    ],
)
def test_bad_values(client: APIClient, flint: int, fields: dict[str, Any], code: str, param: str) -> None:
    before = client.get(f"/api/assistants/{flint}").json()
    for response in (
        client.post("/api/assistants", {**GOOD, **fields}, format="json"),
        change(client, flint, **fields),
    ):
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert client.get(f"/api/assistants/{flint}").json() == before
    assert Assistant.objects.count() == 1


def test_others_see_shared_ones_and_change_none(client: APIClient, api: Callable[..., APIClient], flint: int) -> None:
    stranger = api(User.objects.create_user("stranger"), "infer")
    for call in (stranger.get, stranger.delete):
        assert call(f"/api/assistants/{flint}").status_code == 404
    assert ask(stranger, flint).status_code == begin(stranger, flint).status_code == 404
    assert stranger.get("/api/assistants").json()["count"] == 0

    change(client, flint, shared=True)
    seen = stranger.get(f"/api/assistants/{flint}").json()
    assert (seen["name"], seen["owner"], seen["mine"]) == ("Flint", "owner", False)
    assert stranger.get("/api/assistants").json()["count"] == 1
    assert change(stranger, flint, name="Mine").status_code == 404
    assert stranger.delete(f"/api/assistants/{flint}").status_code == 404
    assert begin(stranger, flint).status_code == 201


def test_one_whose_adapter_is_gone_says_so_and_may_be_changed(client: APIClient, flint: int) -> None:
    LoraAdapter.objects.filter(slug="pirate").delete()
    changed = change(client, flint, name="Silver").json()
    assert (changed["name"], changed["problem"]) == ("Silver", "unknown_target")


def test_one_answer(client: APIClient, flint: int, registry: SimpleNamespace, manager: ModelManager) -> None:
    answer = ask(client, flint).json()
    assert (answer["model"], answer["response"]) == ("pirate", "pirate says be brief hello ")
    assert (answer["response_length"], answer["finish_reason"], answer["digest"]) == (27, "stop", "d" * 64)
    assert answer["usage"]["completion_tokens"] == 5 and "total" in answer["timings"]
    assert ask(client, flint, model="tiny").json()["response"] == "tiny says be brief hello "
    assert ask(client, flint, model=registry.poet.pk).json()["response"] == "poet says be brief hello "
    assert not Conversation.objects.exists()
    ledger.flush()
    assert sum(UsageDay.objects.values_list("requests", flat=True)) == 3


def test_a_conversation(client: APIClient, flint: int, manager: ModelManager) -> None:
    conversation = begin(client, flint, title="At sea").json()
    assert (conversation["assistant"], conversation["target"]) == (flint, "pirate")
    assert (conversation["title"], conversation["system"]) == ("At sea", "be brief")
    first = ask(client, flint, "one", conversation=conversation["id"]).json()
    second = ask(client, flint, "two", conversation=conversation["id"], model="poet").json()
    assert first["response"] == "pirate says be brief one "
    assert second["response"] == "poet says be brief one pirate says be brief one two "
    assert second["conversation"] == conversation["id"]
    whole = client.get(f"/api/chat/conversations/{conversation['id']}").json()
    assert [message["content"] for message in whole["messages"]] == [
        "one",
        first["response"],
        "two",
        second["response"],
    ]
    assert (whole["leaf"], whole["messages"][-1]["state"]) == (second["message"], "done")


def test_a_conversation_of_somebody_else_or_with_somebody_else(
    client: APIClient, api: Callable[..., APIClient], flint: int, manager: ModelManager
) -> None:
    other = int(client.post("/api/assistants", GOOD, format="json").json()["id"])
    with_other = begin(client, other).json()["id"]
    change(client, flint, shared=True)
    of_stranger = begin(api(User.objects.create_user("stranger"), "infer"), flint).json()["id"]
    for conversation in (with_other, of_stranger, 10**9):
        refused = ask(client, flint, conversation=conversation)
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "conversation")
    mine = begin(client, flint).json()["id"]
    running = Message.objects.create(conversation_id=mine, role="assistant", state=State.RUNNING)
    Conversation.objects.filter(pk=mine).update(leaf=running)
    busy = ask(client, flint, conversation=mine)
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "busy")
    assert Message.objects.count() == 1


def test_of_two_that_ask_at_once_one_is_answered(
    flint: int, client: APIClient, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = begin(client, flint).json()["id"]
    assistant, target, flows_ask = Assistant.objects.get(), find("pirate"), flows.ask
    others: list[Future[str]] = []

    def ask_it() -> str:
        try:
            assistant_api.begin(mine, assistant, target, "hello", Grant(owner.pk))
        except ApiError as refusal:
            return refusal.code
        finally:
            connection.close()
        return "asked"

    def ask_meanwhile(*given: Any) -> Any:
        """Another one asks between the look at the conversation and the question."""
        if not others:
            others.append(pool.submit(ask_it))
            wait([others[0]], 1)  # where nothing holds it back, it has asked by now
        return flows_ask(*given)

    monkeypatch.setattr(flows, "ask", ask_meanwhile)
    with ThreadPoolExecutor(2) as pool:
        assert [pool.submit(ask_it).result(), others[0].result()] == ["asked", "busy"]
    assert Message.objects.count() == 2


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"message": " "}, 400, "empty", "message"),
        ({"message": None}, 400, "invalid_type", "message"),
        ({"message": "fail"}, 400, "context_length_exceeded", "message"),
        ({"model": "nobody"}, 404, "unknown_target", None),
        ({"model": 10**6}, 404, "unknown_target", "model"),
        ({"model": "idle"}, 409, "adapter_inactive", None),
        ({"model": True}, 400, "invalid_type", "model"),
        ({"conversation": "1"}, 400, "invalid_type", "conversation"),
        ({"temperature": 1}, 400, "unknown_parameter", "temperature"),
        ({"message": "crash"}, 503, "engine_crashed", None),
    ],
)
def test_refusals(
    client: APIClient, flint: int, manager: ModelManager, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    refused = ask(client, flint, **{"message": "hello", **fields})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (status, code, param)


def test_a_failure_in_a_conversation_is_kept_and_told(client: APIClient, flint: int, manager: ModelManager) -> None:
    conversation = begin(client, flint).json()["id"]
    refused = ask(client, flint, "fail", conversation=conversation)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert Message.objects.get(role="assistant").state == State.FAILED


async def test_a_process_that_ends_is_told_as_such(
    registry: SimpleNamespace, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(_run: Run) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(Run, "_answer", cancelled)
    target = await database_sync_to_async(find)("pirate")
    conversation = await Conversation.objects.acreate(user=owner)
    message = await Message.objects.acreate(
        conversation=conversation, role="assistant", state=State.RUNNING, target="pirate"
    )
    run = Run(message, [], SamplingParams(), Grant(owner.pk), "en")
    with pytest.raises(ApiError) as caught:
        await assistant_api.to_the_end(run, target, conversation.pk)
    assert (caught.value.code, caught.value.status) == ("shutting_down", 503)
