"""Assistants: who sees and changes them, parameters by the rules of requests, the service behind them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.http import Http404
from django.test import Client

from accounts.access import Grant
from adapters.models import LoraAdapter
from chat.assistants import chat_with_lora
from chat.models import Assistant, Conversation
from inference.errors import InferenceError
from inference.manager import ModelManager

pytestmark = pytest.mark.django_db(transaction=True)
GOOD = {"name": "Flint", "target": "pirate", "system": "be brief", "temperature": "0.5", "sample_lines": "a?\n\nb?"}


@pytest.fixture
def owner() -> User:
    return User.objects.create_user("owner")


@pytest.fixture
def client(owner: User, registry: SimpleNamespace) -> Client:
    client = Client()
    client.force_login(owner)
    return client


def test_made_changed_and_talked_to(client: Client, owner: User) -> None:
    assert client.post("/assistants/new", GOOD).status_code == 302
    made = Assistant.objects.get()
    assert (made.owner, made.params, made.samples) == (owner, {"temperature": 0.5}, ["a?", "b?"])

    client.post(f"/assistants/{made.pk}", {**GOOD, "name": "Silver", "shared": "on"})
    made.refresh_from_db()
    assert (made.name, made.shared) == ("Silver", True)

    client.post(f"/assistants/{made.pk}/talk")
    talk = Conversation.objects.get()
    assert (talk.system, talk.target, talk.params) == ("be brief", "pirate", {"temperature": 0.5})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("target", "nobody"),
        ("target", "idle"),
        ("temperature", "3"),
        ("max_tokens", "0"),
        ("top_p", "nan"),
        ("icon", "skull"),
        ("sample_lines", "x\n" * 7),
    ],
)
def test_bad_values_are_refused_beside_their_field(client: Client, field: str, value: str) -> None:
    response = client.post("/assistants/new", {**GOOD, field: value})
    assert response.status_code == 400
    assert field in response.context["form"].errors
    assert not Assistant.objects.exists()


def test_talking_again_goes_on_where_nothing_was_said(client: Client, owner: User) -> None:
    made = Assistant.objects.create(owner=owner, name="Flint", target="pirate", system="be brief")
    first = client.post(f"/assistants/{made.pk}/talk").headers["Location"]
    Assistant.objects.update(system="be long")
    assert client.post(f"/assistants/{made.pk}/talk").headers["Location"] == first
    talk = Conversation.objects.get()
    assert talk.system == "be long"
    assert ">Flint<" in client.get("/chat").content.decode()
    talk.messages.create(role="user", content="hello")
    assert client.post(f"/assistants/{made.pk}/talk").headers["Location"] != first


def test_shared_ones_are_seen_but_not_changed_by_others(client: Client) -> None:
    other = User.objects.create_user("other")
    shared = Assistant.objects.create(owner=other, name="Shared one", target="pirate", shared=True)
    Assistant.objects.create(owner=other, name="Private one", target="pirate")
    page = client.get("/assistants").content.decode()
    assert "Shared one" in page and "Private one" not in page
    assert client.post(f"/assistants/{shared.pk}/talk").status_code == 302
    assert client.post(f"/assistants/{shared.pk}", GOOD).status_code == 404
    assert client.post(f"/assistants/{shared.pk}/delete").status_code == 404


def test_one_whose_adapter_is_gone_says_so(client: Client, owner: User) -> None:
    Assistant.objects.create(owner=owner, name="Flint", target="pirate")
    assert "assistant-problem" not in client.get("/assistants").content.decode()
    LoraAdapter.objects.filter(slug="pirate").delete()
    page = client.get("/assistants").content.decode()
    assert "assistant-problem" in page and "unknown_target" in page


async def test_chat_with_lora(registry: Any, manager: ModelManager) -> None:
    owner = await User.objects.acreate(username="owner")
    other = await User.objects.acreate(username="other")
    made = await Assistant.objects.acreate(owner=owner, name="Flint", target="pirate", system="be brief")
    poet, idle = [await LoraAdapter.objects.aget(slug=slug) for slug in ("poet", "idle")]
    answer = await chat_with_lora(made.pk, poet.pk, "hello", Grant(owner.pk))
    assert answer.text == "poet says be brief hello "
    with pytest.raises(InferenceError) as refused:
        await chat_with_lora(made.pk, idle.pk, "hello", Grant(owner.pk))
    assert refused.value.code == "adapter_inactive"
    for assistant, adapter, user in ((made.pk, poet.pk, other), (made.pk + 1, poet.pk, owner), (made.pk, 10**6, owner)):
        with pytest.raises(Http404):
            await chat_with_lora(assistant, adapter, "hello", Grant(user.pk))
    await sync_to_async(manager.close)()
