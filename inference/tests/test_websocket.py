"""`/ws/generate`: who may connect, frames good and bad, stop, disconnect, credits, comparison, withdrawal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import Client as Browser

from accounts import access
from accounts.models import ApiToken
from accounts.tokens import issue_token
from accounts.websocket import AuthMiddleware
from inference.api.ws import flow_control
from inference.api.ws.consumer import GenerateConsumer
from inference.api.ws.flow_control import Credits, SlowReaderError
from inference.manager import ModelManager

pytestmark = pytest.mark.django_db(transaction=True)
HERE = (b"host", b"localhost:8000")


class Client:
    def __init__(self, socket: WebsocketCommunicator) -> None:
        self.socket = socket

    async def send(self, **frame: Any) -> None:
        await self.socket.send_json_to(frame)

    async def ask(self, request_id: str, prompt: str, *targets: str, **extra: Any) -> None:
        messages = [{"role": "user", "content": prompt}]
        frame = {"type": "generate", "id": request_id, "targets": list(targets), "messages": messages}
        await self.send(**{**frame, **extra})

    async def next(self, timeout: float = 30) -> dict[str, Any]:
        return dict(await self.socket.receive_json_from(timeout))

    async def until(self, *kinds: str) -> list[dict[str, Any]]:
        """Frames up to and with the first of these kinds."""
        frames = [await self.next()]
        while frames[-1]["type"] not in kinds:
            frames.append(await self.next())
        return frames

    async def error(self) -> dict[str, Any]:
        return (await self.until("error"))[-1]


@pytest.fixture
def token(transactional_db: None) -> tuple[ApiToken, str]:
    return issue_token(User.objects.create_user("owner"), "laptop")


def socket_of(secret: str) -> WebsocketCommunicator:
    headers = [HERE, (b"authorization", f"Bearer {secret}".encode())]
    return WebsocketCommunicator(AuthMiddleware(GenerateConsumer.as_asgi()), "/ws/generate", headers=headers)


@pytest_asyncio.fixture
async def client(
    token: tuple[ApiToken, str], registry: SimpleNamespace, manager: ModelManager
) -> AsyncIterator[Client]:
    socket = socket_of(token[1])
    opened, _code = await socket.connect()
    assert opened
    yield Client(socket)
    await socket.disconnect()
    await idle(manager)


async def idle(manager: ModelManager) -> None:
    async with asyncio.timeout(10):
        while manager.backend.snapshot()["in_flight"]:
            await asyncio.sleep(0.01)


def text_of(frames: list[dict[str, Any]], target: str | None = None) -> str:
    return "".join(f["text"] for f in frames if f["type"] == "token" and target in (None, f["target"]))


async def test_unauthenticated_is_closed_before_it_opens() -> None:
    socket = WebsocketCommunicator(GenerateConsumer.as_asgi(), "/ws/generate")
    assert await socket.connect() == (False, 4401)
    assert (await WebsocketCommunicator(AuthMiddleware(GenerateConsumer.as_asgi()), "/").connect())[0] is False


async def test_foreign_origin_is_refused(token: tuple[ApiToken, str]) -> None:
    headers = [HERE, (b"authorization", f"Bearer {token[1]}".encode()), (b"origin", b"http://evil.example")]
    socket = WebsocketCommunicator(AuthMiddleware(GenerateConsumer.as_asgi()), "/ws/generate", headers=headers)
    assert (await socket.connect())[0] is False


async def test_answer(client: Client) -> None:
    await client.ask("g1", "ahoy", "pirate")
    frames = await client.until("done")
    assert frames[0]["type"] == "loading" and frames[0]["stage"] == "starting"
    assert {(f["id"], f["target"]) for f in frames} == {("g1", "pirate")}
    assert text_of(frames) == "pirate says ahoy "
    done = frames[-1]
    assert (done["finish_reason"], done["digest"]) == ("stop", "d" * 64)
    assert done["usage"]["completion_tokens"] == 3 and "tokens_per_second" in done["timings"]


async def test_whoever_has_the_end_may_ask_again(
    client: Client, settings: Any, slow_books: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.USER_CONCURRENT = 3
    monkeypatch.setattr("inference.api.ws.consumer.MAX_RUNNING", 3)
    for _time in range(10):
        await client.ask("g", "ahoy", "pirate", "poet", "tiny")  # by the same name each time
        for _target in range(3):
            assert (await client.until("done", "error"))[-1]["type"] == "done"


async def test_comparison_of_adapters_and_their_base(client: Client) -> None:
    targets = ("pirate", "poet", "tiny")
    await client.ask("g1", "ahoy", *targets)
    frames: list[dict[str, Any]] = []
    for _ in targets:
        frames += await client.until("done")
    for target in targets:
        assert text_of(frames, target) == f"{target} says ahoy "


async def test_one_bad_target_leaves_the_others(client: Client) -> None:
    await client.ask("g1", "ahoy", "pirate", "idle", "nobody")
    frames: list[dict[str, Any]] = []
    for _ in range(3):
        frames += await client.until("done", "error")
    errors = {f["target"]: (f["code"], f["status"]) for f in frames if f["type"] == "error"}
    assert errors == {"idle": ("adapter_inactive", 409), "nobody": ("unknown_target", 404)}
    assert text_of(frames, "pirate") == "pirate says ahoy "


async def test_stop_while_tokens_flow(client: Client) -> None:
    await client.ask("g1", "hang", "pirate", "poet")
    await client.until("token")
    await client.send(type="stop", id="g1")
    ends = [(await client.until("done"))[-1] for _ in range(2)]
    assert {end["finish_reason"] for end in ends} == {"cancelled"}
    await client.ask("g1", "ahoy", "pirate")  # the id is free again
    assert text_of(await client.until("done")) == "pirate says ahoy "


async def test_disconnect_cancels(token: tuple[ApiToken, str], client: Client, manager: ModelManager) -> None:
    await client.ask("g1", "hang", "pirate", "poet")
    await client.until("token")
    assert manager.backend.snapshot()["in_flight"] == 2
    await client.socket.disconnect()
    await idle(manager)


GENERATE = {"type": "generate", "id": "x", "targets": ["pirate"], "prompt": "hi"}


@pytest.mark.parametrize(
    ("frame", "code", "param"),
    [
        ("{", "malformed_json", None),
        ("[" * 100_000, "malformed_json", None),
        ('{"type": NaN}', "malformed_json", None),
        ("[]", "malformed_frame", None),
        ({}, "malformed_frame", "type"),
        ({"type": "dance", "id": "x"}, "malformed_frame", "type"),
        ({"type": "stop"}, "invalid_type", "id"),
        ({"type": "ack", "id": "x", "index": True}, "invalid_type", "index"),
        ({**GENERATE, "id": ""}, "empty", "id"),
        ({**GENERATE, "id": "x" * 65}, "too_long", "id"),
        ({**GENERATE, "targets": []}, "invalid_type", "targets"),
        ({**GENERATE, "targets": ["a"] * 9}, "too_many", "targets"),
        ({**GENERATE, "targets": ["a", "a"]}, "duplicate", "targets"),
        ({**GENERATE, "targets": [1]}, "invalid_type", "targets.0"),
        ({**GENERATE, "prompt": " "}, "empty", "prompt"),
        ({**GENERATE, "prompt": None}, "required", "prompt"),
        ({**GENERATE, "messages": []}, "conflict", "prompt"),
        ({**GENERATE, "params": {"temperature": -1}}, "out_of_range", "params.temperature"),
        ({**GENERATE, "params": {"max_tokens": 10**9}}, "out_of_range", "params.max_tokens"),
        ({**GENERATE, "params": {"dance": 1}}, "unknown_parameter", "params.dance"),
        ({**GENERATE, "params": 3}, "invalid_type", "params"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_bad_frames_leave_the_connection(client: Client, frame: Any, code: str, param: str | None) -> None:
    await client.socket.send_to(frame if isinstance(frame, str) else json.dumps(frame))
    error = await client.error()
    assert (error["code"], error["param"], error["status"]) == (code, param, 400)
    await client.ask("g1", "ahoy", "pirate")
    assert text_of(await client.until("done")) == "pirate says ahoy "


async def test_binary_frames_are_refused(client: Client) -> None:
    await client.socket.send_to(bytes_data=b"\x00")
    assert (await client.error())["code"] == "malformed_frame"


async def test_duplicate_id_and_too_many(client: Client) -> None:
    names = [f"g{number}" for number in range(16)]
    for name in names:
        await client.ask(name, "hang", "pirate")
    await client.ask("g0", "again", "pirate")
    assert (await client.error())["code"] == "duplicate_id"
    await client.ask("g16", "more", "pirate")
    error = await client.error()
    assert (error["code"], error["status"], error["id"]) == ("too_many_generations", 429, "g16")


async def test_unknown_ids_are_no_error(client: Client) -> None:
    await client.send(type="stop", id="nothing")
    await client.send(type="ack", id="nothing", index=3)
    await client.ask("g1", "ahoy", "pirate")
    assert (await client.until("done", "error"))[-1]["type"] == "done"


async def test_engine_error_has_its_parameter_and_language(
    token: tuple[ApiToken, str], client: Client, manager: ModelManager
) -> None:
    await client.ask("g1", "fail", "pirate")
    error = await client.error()
    assert (error["code"], error["param"], error["status"]) == ("context_length_exceeded", "messages", 400)
    assert "9,000" in error["message"]
    await client.ask("g2", "crash", "pirate")
    error = await client.error()
    assert (error["code"], error["status"]) == ("engine_crashed", 503) and error["retry_after"] > 0
    await client.ask("g3", "ahoy", "pirate")
    assert text_of(await client.until("done")) == "pirate says ahoy "


async def test_credits_hold_an_acknowledging_client(client: Client) -> None:
    """The server runs at most a window ahead; the text that waits arrives in fewer, longer pieces."""
    await client.ask("g1", "flood", "pirate")
    frames = await client.until("token")
    await client.send(type="ack", id="g1", index=0)
    while frames[-1]["type"] != "done":
        try:
            frames.append(await client.next(0.3))
        except TimeoutError:
            pytest.fail("the server stopped")
        if frames[-1]["type"] == "token" and frames[-1]["index"] % 16 == 0:
            await client.send(type="ack", id="g1", index=frames[-1]["index"])
    assert text_of(frames) == "x" * 100_000
    assert [f["index"] for f in frames if f["type"] == "token"] == list(range(frames[-2]["index"] + 1))


async def test_credits() -> None:
    credit = Credits(patience=0.05)
    for index in range(flow_control.WINDOW * 2):
        await credit.take(index, 1)  # nobody acknowledges: only the amount counts
    credit.ack(flow_control.WINDOW)
    for index in range(flow_control.WINDOW * 2, flow_control.WINDOW * 2 + 1):
        await credit.take(index, 1)
    assert credit.spent
    with pytest.raises(SlowReaderError):
        await credit.take(flow_control.WINDOW * 2 + 1, 1)
    credit.ack(10**9)  # what was never sent does not count
    assert credit.acked == flow_control.WINDOW * 2
    silent = Credits(patience=0.05)
    await silent.take(0, flow_control.FREE_CHARS)
    with pytest.raises(SlowReaderError):
        await silent.take(1, 1)
    silent.lift()
    await silent.take(1, 1)


async def test_reader_that_stops_acknowledging_is_cut(
    client: Client, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Credits.__init__, "__defaults__", (0.2,))
    await client.ask("g1", "hang", "pirate")
    await client.until("token")
    await client.send(type="ack", id="g1", index=0)
    error = await client.error()
    assert (error["code"], error["id"]) == ("slow_reader", "g1")
    await idle(manager)


async def test_no_answer_goes_through_the_channel_layer(
    token: tuple[ApiToken, str], registry: SimpleNamespace, manager: ModelManager, settings: Any
) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.NoSuchLayer"}}
    client = Client(socket_of(token[1]))
    await client.socket.connect()
    await client.ask("g1", "ahoy", "pirate")
    assert text_of(await client.until("done")) == "pirate says ahoy "
    await client.socket.disconnect()


@pytest.mark.parametrize("how", ["token", "account"])
async def test_withdrawn_access_ends_what_runs(
    client: Client,
    manager: ModelManager,
    token: tuple[ApiToken, str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    monkeypatch.setattr(access, "INTERVAL", 0.05)
    await client.ask("g1", "hang", "pirate")
    await client.until("token")
    await database_sync_to_async(withdraw)(token[0], how)
    error = await client.error()
    assert (error["code"], error["id"], error["status"]) == ("revoked", "g1", 401)
    assert (await client.socket.receive_output(5))["code"] == 4401
    await idle(manager)


def withdraw(token: ApiToken, how: str) -> None:
    if how == "token":
        token.delete()
    else:
        User.objects.filter(pk=token.user_id).update(is_active=False)


async def test_session_that_ends_takes_its_answers_with_it(
    registry: SimpleNamespace, manager: ModelManager, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(access, "INTERVAL", 0.05)

    def sign_in() -> tuple[Browser, bytes]:
        browser = Browser()
        browser.force_login(User.objects.create_user("teammate"))
        name = settings.SESSION_COOKIE_NAME
        return browser, f"{name}={browser.cookies[name].value}".encode()

    browser, cookie = await database_sync_to_async(sign_in)()
    headers = [HERE, (b"cookie", cookie), (b"origin", b"http://localhost:8000")]
    socket = WebsocketCommunicator(AuthMiddleware(GenerateConsumer.as_asgi()), "/ws/generate", headers=headers)
    assert (await socket.connect())[0]
    client = Client(socket)
    await client.ask("g1", "hang", "pirate")
    await client.until("token")
    await database_sync_to_async(browser.logout)()
    assert (await client.error())["code"] == "revoked"
    await idle(manager)


async def test_withdrawn_token_starts_nothing(client: Client, token: tuple[ApiToken, str]) -> None:
    await database_sync_to_async(withdraw)(token[0], "token")
    await client.ask("g1", "ahoy", "pirate")
    assert (await client.error())["code"] == "revoked"


async def test_server_that_goes_away_says_so(
    token: tuple[ApiToken, str], registry: SimpleNamespace, manager: ModelManager
) -> None:
    sent: list[dict[str, Any]] = []
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [HERE, (b"authorization", f"Bearer {token[1]}".encode())]
    scope = {"type": "websocket", "path": "/ws/generate", "headers": headers}
    task = asyncio.create_task(AuthMiddleware(GenerateConsumer.as_asgi())(scope, inbox.get, send))
    inbox.put_nowait({"type": "websocket.connect"})
    frame = {"type": "generate", "id": "g1", "targets": ["pirate"], "prompt": "hang"}
    inbox.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})
    async with asyncio.timeout(30):
        while not any('"token"' in message.get("text", "") for message in sent):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert json.loads(sent[-2]["text"])["code"] == "shutting_down"
    assert sent[-1] == {"type": "websocket.close", "code": 4503}
    await idle(manager)


async def test_eight_connections_get_their_own(
    token: tuple[ApiToken, str], registry: SimpleNamespace, manager: ModelManager
) -> None:
    async def one(number: int) -> None:
        headers = [HERE, (b"authorization", f"Bearer {token[1]}".encode())]
        application = AuthMiddleware(GenerateConsumer.as_asgi())
        socket = WebsocketCommunicator(application, "/ws/generate", headers=headers)
        assert (await socket.connect())[0]
        client = Client(socket)
        target = ["pirate", "poet", "tiny"][number % 3]
        await client.ask(f"g{number}", f"q{number}", target)
        assert text_of(await client.until("done")) == f"{target} says q{number} "
        await socket.disconnect()

    await asyncio.gather(*(one(number) for number in range(8)))
