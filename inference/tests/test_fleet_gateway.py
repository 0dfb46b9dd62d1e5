"""The doors over a fleet: same frames, errors, limits, usage and digests as over the engine on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User

from accounts.tokens import issue_token
from accounts.websocket import AuthMiddleware
from adapters.models import BaseModel, LoraAdapter, Status
from inference.api.ws.consumer import GenerateConsumer
from inference.manager import set_manager

from .fake_vllm import fake_vllm
from .fleet import fleet_manager, store, write_base
from .test_websocket import HERE, Client, idle, text_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def fleet(transactional_db: None, tmp_path: Path, settings: Any) -> Iterator[SimpleNamespace]:
    """`pirate` and `poet` are served by a fleet of one."""
    settings.STORE_DIR, settings.FLEET_DIR = tmp_path / "store", tmp_path / "fleet"
    settings.INFERENCE_BACKEND, settings.VLLM_URL = "vllm", [("", "http://127.0.0.1:1")]
    spec = write_base(tmp_path / "models" / "tiny")
    base = BaseModel.objects.create(
        name="tiny", slug="tiny", path=spec["path"], path_hash="tiny", key=spec["key"], context_length=2048
    )
    rows = {}
    for name in ("pirate", "poet"):
        stored = store(settings.STORE_DIR, name)
        rows[name] = LoraAdapter.objects.create(
            name=name, slug=name, path_hash=name, base=base, status=Status.ACTIVE, digest=stored["digest"]
        )
    with fake_vllm(tmp_path / "fleet") as server:
        manager = fleet_manager(tmp_path / "fleet", server.url)
        before = set_manager(manager)
        yield SimpleNamespace(server=server, manager=manager, base=base, **rows)
        set_manager(before)
        manager.close()


@pytest.fixture
def user(api: Callable[..., Any], owner: User) -> Any:
    return api(owner, "infer")


@pytest.fixture
def bearer(operator: User) -> str:
    return f"Bearer {issue_token(operator, 'laptop')[1]}"


@pytest_asyncio.fixture
async def socket(fleet: SimpleNamespace, bearer: str) -> AsyncIterator[Client]:
    headers = [HERE, (b"authorization", bearer.encode())]
    opening = WebsocketCommunicator(AuthMiddleware(GenerateConsumer.as_asgi()), "/ws/generate", headers=headers)
    opened, _code = await opening.connect()
    assert opened
    yield Client(opening)
    await opening.disconnect()
    await idle(fleet.manager)


def test_rest(user: Any, fleet: SimpleNamespace) -> None:
    response = user.post(
        f"/api/lora/models/{fleet.pirate.pk}/test", {"prompt": "ahoy", "temperature": 0}, format="json"
    )
    assert response.status_code == 200
    body = response.json()
    assert body["response"] == f"{fleet.pirate.digest[:6]} says ahoy " and body["digest"] == fleet.pirate.digest
    assert body["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "cached_tokens": 1}
    assert set(body["timings"]) == {"queue", "load", "ttft", "total", "tokens_per_second"}


@pytest.mark.parametrize(
    ("body", "status", "code", "param", "retry"),
    [
        ({"prompt": "x", "temperature": -1}, 400, "out_of_range", "temperature", None),
        ({"prompt": "word " * 600}, 400, "context_length_exceeded", "prompt", None),
        ({"prompt": "x", "json_schema": {"type": "nonsense"}}, 400, "invalid_parameter", "json_schema", None),
        ({"prompt": "busy"}, 503, "queue_full", None, "7"),
        ({"prompt": "cut"}, 503, "fleet_interrupted", None, "1"),
        ({"prompt": "away"}, 503, "fleet_unavailable", None, "7"),
    ],
)
def test_refusals(
    user: Any, fleet: SimpleNamespace, body: Any, status: int, code: str, param: str | None, retry: str | None
) -> None:
    response = user.post(f"/api/lora/models/{fleet.pirate.pk}/test", body, format="json")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert response.headers.get("Retry-After") == retry
    assert "127.0.0.1" not in error["message"]


def test_a_fleet_that_is_away(user: Any, fleet: SimpleNamespace) -> None:
    fleet.server.stop()
    response = user.post(f"/api/lora/models/{fleet.pirate.pk}/test", {"prompt": "x"}, format="json")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
    assert response.json()["error"]["code"] == "fleet_unavailable"


def test_openai(user: Any, fleet: SimpleNamespace) -> None:
    asked = {"model": "poet", "messages": [{"role": "user", "content": "ahoy"}]}
    body = user.post("/v1/chat/completions", asked, format="json").json()
    text = f"{fleet.poet.digest[:6]} says <s> user: ahoy assistant: "
    assert body["choices"][0]["message"]["content"] == text
    assert body["usage"]["completion_tokens"] == 6


async def test_openai_streams(async_client: Any, bearer: str, fleet: SimpleNamespace) -> None:
    asked = {"model": "poet", "messages": [{"role": "user", "content": "ahoy"}], "stream": True}
    streamed = await async_client.post("/v1/chat/completions", asked, "application/json", AUTHORIZATION=bearer)
    chunks = await lines_of(streamed)
    assert chunks[-1] == "[DONE]"
    choices = [json.loads(chunk)["choices"] for chunk in chunks[:-1]]
    text = "".join(choice[0]["delta"].get("content") or "" for choice in choices if choice)
    assert text == f"{fleet.poet.digest[:6]} says <s> user: ahoy assistant: "
    asked = {"model": "poet", "prompt": "cut", "stream": True}
    broken = await async_client.post("/v1/completions", asked, "application/json", AUTHORIZATION=bearer)
    ends = [json.loads(chunk) for chunk in await lines_of(broken) if chunk != "[DONE]"]
    assert ends[-1]["error"]["code"] == "fleet_interrupted", "an error, never silence"


async def lines_of(response: Any) -> list[str]:
    data = b"".join([piece async for piece in response.streaming_content]).decode()
    return [line.removeprefix("data: ") for line in data.split("\n\n") if line.startswith("data: ")]


def test_count_status_load_unload(api: Callable[..., Any], operator: User, fleet: SimpleNamespace) -> None:
    client = api(operator, "infer", "operate")
    counted = client.post("/api/inference/count", {"model": "pirate", "prompt": "one two"}, format="json").json()
    assert counted == {"tokens": 3, "context_length": 512}
    loaded = client.post("/api/inference/load", {"model": "pirate"}, format="json")
    assert loaded.status_code == 200
    fleet.manager.backend.watching.looked = 0.0
    status = client.get("/api/inference/status").json()
    assert status["worker"]["device"] == "vllm"
    [address] = status["engine"]["fleet"]
    assert address["reachable"] and address["adapters"] == [fleet.pirate.digest]
    assert [one["name"] for one in status["engine"]["adapters"]] == ["pirate"]
    refused = client.post("/api/inference/unload", {}, format="json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "fleet_cannot")
    pinned = client.post("/api/inference/load", {"model": "pirate", "pin": True}, format="json")
    assert (pinned.status_code, pinned.json()["error"]["param"]) == (409, "pin")
    metrics = client.get("/metrics").content.decode()
    assert "loraportal_engine_up 1.0" in metrics
    assert f'loraportal_fleet_up{{address="{fleet.server.url}"}} 1.0' in metrics
    assert f'loraportal_fleet_kv_cache_usage_perc{{address="{fleet.server.url}"}} 0.75' in metrics


def test_monitoring_shows_the_fleet(client: Any, admin_user: Any, settings: Any) -> None:
    client.force_login(admin_user)
    assert "data-engine" in client.get("/monitoring").content.decode()
    settings.INFERENCE_BACKEND = "vllm"
    page = client.get("/monitoring").content.decode()
    assert "data-fleet" in page and "data-addresses" in page and "data-engine" not in page


async def test_websocket_frames(socket: Client, fleet: SimpleNamespace) -> None:
    await socket.ask("g1", "ahoy", "pirate", "poet")
    frames = await socket.until("done")
    frames += await socket.until("done")
    for name in ("pirate", "poet"):
        assert text_of(frames, name).startswith(getattr(fleet, name).digest[:6])
    assert {f["digest"] for f in frames if f["type"] == "done"} == {fleet.pirate.digest, fleet.poet.digest}
    assert {f["type"] for f in frames} == {"token", "done"}


async def test_stop_and_leaving_close_the_upstream(socket: Client, fleet: SimpleNamespace) -> None:
    await socket.ask("g1", "hang", "pirate")
    await socket.until("token")
    await socket.send(type="stop", id="g1")
    done = (await socket.until("done"))[-1]
    assert (done["finish_reason"], done["digest"]) == ("cancelled", fleet.pirate.digest)
    await gone(fleet)
    await socket.ask("g2", "hang", "poet")
    await socket.until("token")
    await socket.socket.disconnect()
    await gone(fleet)


async def gone(fleet: SimpleNamespace) -> None:
    async with asyncio.timeout(2):
        while fleet.server.running:
            await asyncio.sleep(0.01)


async def test_a_cut_stream_ends_with_an_error_frame(socket: Client, fleet: SimpleNamespace) -> None:
    await socket.ask("g1", "half", "pirate")
    frames = await socket.until("error", "done")
    assert frames[-1]["type"] == "error" and frames[-1]["code"] == "fleet_interrupted"
    assert frames[-1]["id"] == "g1" and text_of(frames)


async def test_limits_hold(socket: Client, fleet: SimpleNamespace, settings: Any) -> None:
    settings.USER_CONCURRENT = 1
    await socket.ask("g1", "hang", "pirate")
    await socket.until("token")
    await socket.ask("g2", "x", "poet")
    assert (await socket.error())["code"] == "too_many_generations"
    await socket.send(type="stop", id="g1")
    await socket.until("done")
