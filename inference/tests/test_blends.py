"""Blends at every door: asked with weights, answered as one, only as long as every member may be asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User

from accounts.tokens import issue_token
from accounts.websocket import AuthMiddleware
from adapters.models import BaseModel, LoraAdapter, Status
from inference.api.ws.consumer import GenerateConsumer
from inference.backends.residents import Residents
from inference.engine.recipes import recipe_digest
from inference.gateway.blends import find_blend
from inference.manager import ModelManager
from inference.measuring.recorder import Recorder
from inference.models import Series, UsageDay
from inference.params import Ingredient
from inference.quota.ledger import ledger

pytestmark = pytest.mark.django_db(transaction=True)
MIX = [{"model": "pirate", "weight": 0.7}, {"model": "poet", "weight": -0.3}]
DIGEST = recipe_digest([("d" * 64, 0.7), ("e" * 64, -0.3)])
RECIPE = [{**MIX[0], "digest": "d" * 64}, {**MIX[1], "digest": "e" * 64}]
LABEL = "0.7 × pirate + -0.3 × poet"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "ahoy"}]}


@pytest.fixture
def user(api: Callable[..., Any], owner: User) -> Any:
    return api(owner, "infer")


def ask(user: Any, registry: SimpleNamespace, adapters: Any, **more: Any) -> Any:
    body = {"prompt": "ahoy", "adapters": adapters, **more}
    return user.post(f"/api/lora/models/{registry.pirate.pk}/test", body, format="json")


def find(*parts: tuple[str, float]) -> Any:
    return find_blend([Ingredient(model=model, weight=weight) for model, weight in parts])


def test_the_portals_own_call(user: Any, registry: SimpleNamespace, manager: ModelManager) -> None:
    answer = ask(user, registry, MIX).json()
    assert answer["response"] == f"{LABEL} says ahoy "
    assert (answer["model"], answer["digest"], answer["adapters"]) == (LABEL, DIGEST, RECIPE)
    plain = user.post(f"/api/lora/models/{registry.pirate.pk}/test", {"prompt": "ahoy"}, format="json").json()
    assert plain["response"] == "pirate says ahoy " and "adapters" not in plain


@pytest.mark.parametrize("model", ["tiny", "poet"])
def test_openai_with_an_extra_field(user: Any, registry: SimpleNamespace, manager: ModelManager, model: str) -> None:
    chat = user.post("/v1/chat/completions", {**CHAT, "model": model, "adapters": MIX}, format="json").json()
    raw = {"model": model, "prompt": "ahoy", "adapters": MIX}
    completion = user.post("/v1/completions", raw, format="json").json()
    assert chat["choices"][0]["message"]["content"] == completion["choices"][0]["text"] == f"{LABEL} says ahoy "
    for whole in (chat, completion):
        assert (whole["model"], whole["system_fingerprint"], whole["adapters"]) == (model, DIGEST, RECIPE)


def test_one_adapter_with_the_weight_1_is_it(user: Any, registry: SimpleNamespace, manager: ModelManager) -> None:
    adapters = [{"model": "pirate"}, {"model": "poet", "weight": 0}]
    answer = ask(user, registry, adapters).json()
    assert (answer["model"], answer["digest"], answer["response"]) == ("pirate", "d" * 64, "pirate says ahoy ")
    assert answer["adapters"] == [{"model": "pirate", "weight": 1.0, "digest": "d" * 64}]
    assert find(("pirate", 0.5)).digest != "d" * 64
    assert find(("pirate", 0.5), ("poet", 1)).digest != find(("poet", 1), ("pirate", 0.5)).digest


@pytest.mark.parametrize(
    ("adapters", "status", "code", "param"),
    [
        ([{"model": "pirate", "weight": 2.01}], 400, "out_of_range", "adapters.0.weight"),
        ([{"model": "pirate", "weight": True}], 400, "invalid_type", "adapters.0.weight"),
        ([{"model": "pirate", "weight": 0}], 400, "conflict", "adapters"),
        ([{"model": "pirate"}, {"model": "pirate"}], 400, "duplicate", "adapters"),
        ([{"model": f"a{n}"} for n in range(9)], 400, "too_many", "adapters"),
        ([], 400, "empty", "adapters"),
        ({}, 400, "invalid_type", "adapters"),
        ([{"model": "pirate", "share": 1}], 400, "unknown_parameter", "adapters.0.share"),
        ([{"model": "pirate"}, {"model": "tiny"}], 422, "blend_not_adapter", "adapters"),
        ([{"model": "pirate"}, {"model": "stranger"}], 422, "blend_bases_differ", "adapters"),
        ([{"model": "pirate"}, {"model": "idle"}], 409, "adapter_inactive", None),
        ([{"model": "pirate"}, {"model": "idle", "weight": 0}], 409, "adapter_inactive", None),
        ([{"model": "pirate"}, {"model": "nobody"}], 404, "unknown_target", None),
        ([{"model": "poet"}], 400, "blend_model_differs", "model"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refusals(
    user: Any,
    registry: SimpleNamespace,
    manager: ModelManager,
    adapters: Any,
    status: int,
    code: str,
    param: str | None,
) -> None:
    other = BaseModel.objects.create(name="o", slug="o", path="/models/o", path_hash="o", key="c" * 64)
    LoraAdapter.objects.create(
        name="stranger", slug="stranger", path_hash="s", base=other, status=Status.ACTIVE, digest="f" * 64
    )
    response = ask(user, registry, adapters)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)


async def test_over_the_websocket(registry: SimpleNamespace, manager: ModelManager) -> None:
    owner = await User.objects.acreate(username="owner")
    _row, secret = await asyncio.to_thread(issue_token, owner, "laptop")
    headers = [(b"host", b"localhost:8000"), (b"authorization", f"Bearer {secret}".encode())]
    socket = WebsocketCommunicator(AuthMiddleware(GenerateConsumer.as_asgi()), "/ws/generate", headers=headers)
    assert (await socket.connect())[0]
    frame = {"type": "generate", "id": "g", "prompt": "ahoy", "blends": [{"name": "mix", "adapters": MIX}]}
    for targets, names in (({}, {"mix"}), ({"targets": ["poet"]}, {"mix", "poet"})):
        await socket.send_json_to({**frame, **targets})
        done: dict[str, Any] = {}
        while len(done) < len(names):
            event = await socket.receive_json_from(30)
            assert event["type"] != "error", event
            if event["type"] == "done":
                done[event["target"]] = event
        assert (done["mix"]["digest"], done["mix"]["adapters"]) == (DIGEST, RECIPE)
        assert set(done) == names and all("adapters" not in done[name] for name in names - {"mix"})
    for bad, code, param in (
        ({"targets": ["mix"]}, "duplicate", "blends"),
        ({"blends": []}, "invalid_type", "targets"),
        ({"blends": [{"name": "mix", "adapters": []}]}, "empty", "blends.0.adapters"),
        ({"targets": [str(n) for n in range(8)]}, "too_many", "blends"),
    ):
        await socket.send_json_to({**frame, **bad})
        error = await socket.receive_json_from(30)
        assert (error["code"], error["param"]) == (code, param)
    await socket.disconnect()


def test_use_is_counted_for_every_member(
    user: Any, registry: SimpleNamespace, manager: ModelManager, recorder: Recorder
) -> None:
    assert ask(user, registry, MIX).status_code == 200
    ledger.flush()
    recorder.flush()
    for adapter in (registry.pirate, registry.poet):
        adapter.refresh_from_db()
        assert adapter.use_count == 1 and adapter.use_tokens > 0 and adapter.last_used_at
    [row] = UsageDay.objects.all()  # the account's tokens once
    assert (row.model, row.digest, row.requests) == (LABEL, DIGEST, 1)
    measured = Series.objects.filter(step=60).values_list("kind", "name", "requests")
    assert {(kind, name) for kind, name, requests in measured if requests == 1 and kind != "user"} == {
        ("all", ""), ("model", "pirate"), ("model", "poet")
    }  # fmt: skip


def test_a_member_that_goes_takes_the_blend_along(user: Any, registry: SimpleNamespace, manager: ModelManager) -> None:
    """Whoever asks is refused at once, and whoever takes a member away waits for what runs."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask(user, registry, MIX, prompt="hang")))
    thread.start()
    backend: Any = manager.backend
    while not any(entry.begun for entry in backend._entries.all()):
        thread.join(0.01)
    assert not manager.drain("e" * 64, 0.05)
    registry.poet.mark_inactive(None)
    assert ask(user, registry, MIX).json()["error"]["code"] == "adapter_inactive"
    [entry] = backend._entries.all()
    backend.cancel(entry.id)
    assert manager.drain("e" * 64, 30)
    thread.join()
    assert answers[0].json()["digest"] == DIGEST


def test_no_worker_is_given_a_blend_back_whose_member_went() -> None:
    residents = Residents()
    base = {"key": "b" * 64, "path": "/b", "name": "b"}
    mixed = {"digest": DIGEST, "path": "", "name": "mix", "members": [{"digest": "d" * 64}, {"digest": "e" * 64}]}
    plain = {"digest": "d" * 64, "path": "/d", "name": "pirate"}
    for adapter in (mixed, plain):
        residents.note({"base": base, "adapter": adapter})
    held = {"base_key": base["key"], "adapters": [{"digest": DIGEST}, {"digest": "d" * 64}]}
    residents.seen(held)
    residents.forget("e" * 64)
    residents.plan_again()
    assert residents.plan is not None and residents.plan["adapters"] == [plain]


def test_a_fleet_refuses_by_name(fleet: SimpleNamespace, api: Callable[..., Any], owner: User) -> None:
    from adapters import services

    adapter = LoraAdapter.objects.get()
    services.activate(adapter.pk, None)
    body = {"prompt": "ahoy", "adapters": [{"model": adapter.slug, "weight": 0.5}]}
    response = api(owner, "infer").post(f"/api/lora/models/{adapter.pk}/test", body, format="json")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (409, "fleet_cannot") and "blending" in error["message"]
