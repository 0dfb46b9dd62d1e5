"""Whatever door refuses a request before a model is asked: it is counted once, by the error's code."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User

from accounts.websocket import AuthMiddleware
from chat.consumers import ChatConsumer
from chat.models import Assistant, Conversation
from inference.api.doors import is_door
from inference.api.ws.consumer import GenerateConsumer
from inference.manager import ModelManager
from inference.measuring import refusals
from inference.measuring.recorder import Recorder
from tests.test_access import ROUTES

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("recorder")]
HISTORY = "/api/monitoring/history"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def counted(api: Callable[..., Any], operator: User, recorder: Recorder) -> Callable[..., Any]:
    """(by code refused, by code failed) over all, or of one account."""

    def ask(user: str = "all") -> tuple[dict[str, int], dict[str, int]]:
        recorder.flush()
        whole = api(operator, "operate").get(HISTORY, {"user": user}).json()["whole"]
        assert whole["refused"] == sum(whole["refusals"].values())
        assert whole["requests"] == sum(whole["ends"].values())
        return whole["refusals"], {code: count for code, count in whole["ends"].items() if code != "stop"}

    return ask


def test_the_doors_are_these() -> None:
    doors = {route for route in ROUTES if is_door("/" + route.replace("<int:pk>", "1").replace("<str:model>", "a"))}
    assert doors == {
        "v1/chat/completions", "v1/completions", "api/lora/models/<int:pk>/test", "api/assistants/<int:pk>/chat",
        "api/inference/score",
    }  # fmt: skip


def test_what_http_refuses(
    api: Callable[..., Any], owner: User, operator: User, registry: SimpleNamespace, manager: ModelManager,
    counted: Callable[..., Any], settings: Any,
) -> None:  # fmt: skip
    client = api(owner, "infer")
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assistant = Assistant.objects.create(owner=owner, name="a", target="nobody")
    test, talk = f"/api/lora/models/{registry.idle.pk}/test", f"/api/assistants/{assistant.pk}/chat"
    sent: list[tuple[str, Any, str]] = [
        (CHAT, {"model": "nobody", "messages": [{"role": "user", "content": "a"}]}, "model_not_found"),
        (COMPLETIONS, {"model": "pirate", "prompt": "a", "colour": 1}, "unsupported_parameter"),
        (COMPLETIONS, {"model": "pirate", "prompt": "a" * 2000}, "body_too_large"),
        (test, {"prompt": "a"}, "adapter_inactive"),
        (test.replace(str(registry.idle.pk), "999"), {"prompt": "a"}, "not_found"),
        (talk, {"message": "a"}, "unknown_target"),
    ]
    for path, body, code in sent:
        assert client.post(path, body, format="json").json()["error"]["code"] == code
    for path in (CHAT, test, talk):
        assert client.generic("POST", path, b"{", "application/json").json()["error"]["code"] == "malformed_json"
        assert api(operator, "operate").post(path, {}, format="json").status_code == 403
        assert api().post(path, {}, format="json").status_code == 401
    expected = {code: 1 for _path, _body, code in sent} | {"malformed_json": 3}
    assert counted("owner") == (expected, {})
    assert counted("operator") == ({"permission_denied": 3}, {})
    assert counted() == (expected | {"permission_denied": 3, "not_authenticated": 3}, {})


def test_what_a_model_was_asked_is_no_refusal(
    api: Callable[..., Any], owner: User, registry: SimpleNamespace, manager: ModelManager,
    counted: Callable[..., Any], settings: Any,
) -> None:  # fmt: skip
    settings.USER_REQUESTS_PER_MINUTE = 3
    client = api(owner, "infer")
    assistant = Assistant.objects.create(owner=owner, name="a", target="pirate")
    conversation = Conversation.objects.create(user=owner, assistant=assistant)
    talk, test = f"/api/assistants/{assistant.pk}/chat", f"/api/lora/models/{registry.pirate.pk}/test"
    failing = {"message": "please fail"}
    assert client.post(talk, failing | {"conversation": conversation.pk}, format="json").status_code == 400
    assert client.post(talk, failing, format="json").status_code == 400
    assert client.post(test, {"prompt": "please fail"}, format="json").status_code == 400
    assert client.post(COMPLETIONS, {"model": "pirate", "prompt": "a"}, format="json").status_code == 429
    assert counted() == ({}, {"context_length_exceeded": 3, "rate_limit_exceeded": 1})


@async_to_sync
async def refused_frames(consumer: Any, path: str, secret: str, frames: list[Any]) -> list[str]:
    """The codes of the errors that these frames get."""
    app: Any = AuthMiddleware(consumer.as_asgi(), refusals.note)
    headers = [(b"host", b"testserver"), (b"authorization", f"Bearer {secret}".encode())]
    socket: Any = WebsocketCommunicator(app, path, headers)
    if not (await socket.connect())[0]:
        return []
    codes = []
    for frame in frames:
        await (socket.send_to(text_data=frame) if isinstance(frame, str) else socket.send_json_to(frame))
        while (told := await socket.receive_json_from(timeout=20))["type"] not in ("error", "done"):
            pass
        codes.append(told["code"] if told["type"] == "error" else told["message"]["state"])
    await socket.disconnect()
    return codes


def test_what_websockets_refuse(
    token_for: Callable[..., str], owner: User, registry: SimpleNamespace, manager: ModelManager,
    counted: Callable[..., Any],
) -> None:  # fmt: skip
    secret = token_for(owner, "infer")
    generate = {"type": "generate", "id": "1", "targets": ["nobody"], "prompt": "a"}
    frames: list[Any] = ["{", {"type": "sing"}, generate | {"params": {"top_p": 7}}, generate]
    frames += [generate | {"targets": ["pirate"], "prompt": "please fail"}, {"type": "stop"}]
    found = refused_frames(GenerateConsumer, "/ws/generate", secret, frames)
    codes = ["malformed_json", "malformed_frame", "out_of_range", "unknown_target"]
    assert found == [*codes, "context_length_exceeded", "invalid_type"]
    conversation = Conversation.objects.create(user=owner).pk
    ask = {"type": "ask", "conversation": conversation, "content": "please fail"}
    frames = [ask | {"target": "nobody"}, {"type": "follow", "message": 999}, ask | {"target": "pirate"}]
    assert refused_frames(ChatConsumer, "/ws/chat", secret, frames) == ["unknown_target", "not_found", "failed"]
    assert refused_frames(GenerateConsumer, "/ws/generate", "nothing", []) == []
    expected = dict.fromkeys(codes, 1) | {"unknown_target": 2}
    assert counted("owner") == (expected, {"context_length_exceeded": 2})
    assert counted() == (expected | {"invalid_token": 1}, {"context_length_exceeded": 2})


def test_metrics_have_them_without_a_model(
    api: Callable[..., Any], operator: User, recorder: Recorder, manager: ModelManager
) -> None:
    client = api(operator, "infer", "operate")
    for _ in range(2):
        client.post(COMPLETIONS, {"model": "nobody", "prompt": "a"}, format="json")
    refusals.note("Name of somebody")
    recorder.flush()
    lines = client.get("/metrics").content.decode().splitlines()
    assert [line for line in lines if line.startswith("loraportal_requests_refused_total")] == [
        'loraportal_requests_refused_total{code="model_not_found"} 2.0',
        'loraportal_requests_refused_total{code="other"} 1.0',
    ]
