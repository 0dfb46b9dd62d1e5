"""`/ws/chat`: asking, following after a reload, versions, stop, limits of the context, other people's rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.db import DatabaseError

from accounts.tokens import issue_token
from accounts.websocket import AuthMiddleware
from chat import keeping
from chat.consumers import ChatConsumer
from chat.flows import save_end
from chat.models import Conversation, Message, State
from inference.manager import ModelManager

pytestmark = pytest.mark.django_db(transaction=True)


class Client:
    def __init__(self, socket: WebsocketCommunicator) -> None:
        self.socket = socket

    async def send(self, kind: str, **frame: Any) -> None:
        await self.socket.send_json_to({"type": kind, **frame})

    async def until(self, *kinds: str) -> list[dict[str, Any]]:
        """Frames up to and with the first of these kinds."""
        frames: list[dict[str, Any]] = []
        while not frames or frames[-1]["type"] not in kinds:
            frames.append(dict(await self.socket.receive_json_from(10)))
        return frames

    async def last(self, kind: str) -> dict[str, Any]:
        return (await self.until(kind))[-1]


@pytest.fixture
def conversation(transactional_db: None, registry: SimpleNamespace, manager: ModelManager) -> Conversation:
    return Conversation.objects.create(user=User.objects.create_user("owner"))


@pytest_asyncio.fixture
async def connect(conversation: Conversation) -> AsyncIterator[Callable[..., Any]]:
    sockets: list[WebsocketCommunicator] = []

    async def make(name: str = "owner") -> Client:
        user, _made = await User.objects.aget_or_create(username=name)
        secret = (await database_sync_to_async(issue_token)(user))[1]
        headers = [(b"host", b"localhost:8000"), (b"authorization", f"Bearer {secret}".encode())]
        socket = WebsocketCommunicator(AuthMiddleware(ChatConsumer.as_asgi()), "/ws/chat", headers)
        sockets.append(socket)
        connected, _code = await socket.connect(10)
        assert connected
        return Client(socket)

    yield make
    for socket in sockets:
        await socket.disconnect()


async def ask(client: Client, conversation: Conversation, content: str, **frame: Any) -> dict[str, Any]:
    """The `started` frame."""
    given = {"conversation": conversation.pk, "parent": None, "content": content, "target": "pirate", **frame}
    await client.send("ask", id="1", **given)
    return await client.last("started")


async def test_an_answer_streams_and_is_kept(conversation: Conversation, connect: Callable[..., Any]) -> None:
    client = await connect()
    started = await ask(client, conversation, "ahoy there")
    frames = await client.until("done")

    heard = "".join(frame["text"] for frame in frames if frame["type"] in ("sync", "text"))
    done = frames[-1]["message"]
    assert heard == done["content"] == "pirate says ahoy there "
    assert (done["state"], done["info"]["finish_reason"]) == ("done", "stop")
    row = await Message.objects.aget(pk=started["answer"]["id"])
    assert (row.content, row.state, row.target) == (heard, State.DONE, "pirate")
    await conversation.arefresh_from_db()
    assert (conversation.title, conversation.leaf_id) == ("ahoy there", row.pk)


@pytest.mark.parametrize("times", [1, 9])
async def test_an_end_that_cannot_be_saved(
    conversation: Conversation, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Saving is tried again; where the database stays away, the answer is whole and says that it is not kept."""
    failures = [DatabaseError("away")] * times

    def save(*end: Any) -> None:
        if failures:
            raise failures.pop()
        save_end(*end)

    monkeypatch.setattr("chat.runs.save_end", save)
    monkeypatch.setattr("chat.runs.SAVE_AGAIN", 0.0)
    monkeypatch.setattr("chat.runs.SAVE_ATTEMPTS", 3)
    client = await connect()
    await ask(client, conversation, "ahoy")
    done = (await client.last("done"))["message"]
    assert done["content"] == "pirate says ahoy "
    assert done["info"].get("unsaved", False) is (times == 9)
    if times == 1:
        assert (await Message.objects.aget(pk=done["id"])).content == done["content"]


async def test_what_waits_says_for_how_long(
    conversation: Conversation, connect: Callable[..., Any], manager: ModelManager
) -> None:
    for _time in range(3):
        manager.expectations.remember("start", "", 60.0)
        manager.expectations.remember("base", "b" * 64, 40.0)
        manager.expectations.remember("adapter", "b" * 64, 20.0)
    client = await connect()
    await ask(client, conversation, "ahoy")
    progress = await client.last("progress")
    assert (progress["kind"], progress["stage"], progress["expected"]) == ("loading", "starting", 120)
    await client.until("done")


async def test_a_reload_follows_on_without_losing_or_doubling(
    conversation: Conversation, connect: Callable[..., Any]
) -> None:
    first = await connect()
    answer = (await ask(first, conversation, "hang on"))["answer"]["id"]
    await first.until("text")
    await first.socket.disconnect()

    second = await connect()
    await second.send("follow", message=answer)
    frames = await second.until("text")
    await second.send("stop", message=answer)
    frames += await second.until("done")

    heard = "".join(frame["text"] for frame in frames if frame["type"] in ("sync", "text"))
    done = frames[-1]["message"]
    assert done["state"] == "stopped"
    assert heard == done["content"] == "tick " * (len(heard) // 5)


async def test_versions_stand_beside_each_other(conversation: Conversation, connect: Callable[..., Any]) -> None:
    client = await connect()
    started = await ask(client, conversation, "one")
    await client.until("done")
    await client.send("again", id="2", conversation=conversation.pk, message=started["question"]["id"], target="poet")
    again = await client.last("started")
    done = await client.last("done")

    assert again["answer"]["parent"] == started["question"]["id"]
    assert done["message"]["content"] == "poet says one "
    assert await Message.objects.filter(role="assistant").acount() == 2


async def test_the_branch_is_the_prompt(conversation: Conversation, connect: Callable[..., Any]) -> None:
    conversation.system = "be brief"
    await conversation.asave()
    client = await connect()
    answer = (await ask(client, conversation, "one"))["answer"]["id"]
    await client.until("done")
    await ask(client, conversation, "two", parent=answer, target="poet")
    done = await client.last("done")
    assert done["message"]["content"] == "poet says be brief one pirate says be brief one two "


async def test_a_start_of_the_engine_is_told_before_anything_is_counted(
    conversation: Conversation, connect: Callable[..., Any]
) -> None:
    question = await Message.objects.acreate(conversation=conversation, role="user", content="one")
    parent = await Message.objects.acreate(conversation=conversation, parent=question, role="assistant", content="two")
    client = await connect()
    await ask(client, conversation, "three", parent=parent.pk)
    progress = await client.last("progress")
    assert (progress["stage"], progress["name"]) == ("starting", "tiny")
    assert (await client.last("done"))["message"]["content"] == "pirate says one two three "


async def test_one_that_went_on_elsewhere_is_not_forked(
    conversation: Conversation, connect: Callable[..., Any]
) -> None:
    one, other = await connect(), await connect()
    answer = (await ask(one, conversation, "first", seen=0))["answer"]["id"]
    await one.until("done")
    await other.send("ask", id="2", conversation=conversation.pk, seen=0, content="second", target="pirate")
    error = await other.last("error")
    assert (error["id"], error["code"], error["status"], error["param"]) == ("2", "conversation_changed", 409, "seen")
    assert await conversation.messages.acount() == 2
    await ask(other, conversation, "second", seen=answer, parent=answer)
    await other.until("done")
    assert await conversation.messages.acount() == 4


async def test_a_long_conversation_is_trimmed_and_says_so(
    conversation: Conversation, connect: Callable[..., Any]
) -> None:
    parent = None
    for _turn in range(6):
        question = await Message.objects.acreate(
            conversation=conversation, parent=parent, role="user", content="word " * 400
        )
        parent = await Message.objects.acreate(
            conversation=conversation, parent=question, role="assistant", content="reply " * 200
        )
    assert parent is not None
    client = await connect()
    await ask(client, conversation, "and now", parent=parent.pk, params={"max_tokens": 16})
    before_a_word = await client.until("text")
    assert [frame["count"] for frame in before_a_word if frame["type"] == "trimmed"] == [6]
    done = await client.last("done")
    assert (
        done["message"]["info"]["trimmed"] == 6
    )  # of 12; three turns of 600 words and the question fit into 2048 - 16


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "ask", "parent": None, "content": "x", "target": "pirate"},
        {"type": "again", "message": 1, "target": "pirate"},
        {"type": "continue", "message": 1},
    ],
)
async def test_others_conversations_are_not_there(
    conversation: Conversation, connect: Callable[..., Any], frame: dict[str, Any]
) -> None:
    client = await connect("outsider")
    kind = frame.pop("type")
    await client.send(kind, id="1", conversation=conversation.pk, **frame)
    error = await client.last("error")
    assert (error["id"], error["code"]) == ("1", "not_found")


@pytest.mark.parametrize("kind", ["follow", "stop"])
async def test_others_answers_are_not_there(conversation: Conversation, connect: Callable[..., Any], kind: str) -> None:
    owner = await connect()
    answer = (await ask(owner, conversation, "hang on"))["answer"]["id"]
    outsider = await connect("outsider")
    await outsider.send(kind, message=answer)
    assert (await outsider.last("error"))["code"] == "not_found"
    await owner.until("text")  # it still runs
    await owner.send("stop", message=answer)
    await owner.until("done")


@pytest.mark.parametrize(
    ("frame", "code", "param"),
    [
        ({"type": "ask", "content": ""}, "empty", "content"),
        ({"type": "ask", "target": "nobody"}, "unknown_target", None),
        ({"type": "ask", "target": "idle"}, "adapter_inactive", None),
        ({"type": "ask", "params": {"temperature": -1}}, "out_of_range", "params.temperature"),
        ({"type": "ask", "parent": 10**9}, "not_found", "message"),
        ({"type": "ask", "conversation": "1"}, "invalid_type", "conversation"),
        ({"type": "what"}, "malformed_frame", None),
    ],
)
async def test_bad_frames(
    conversation: Conversation, connect: Callable[..., Any], frame: dict[str, Any], code: str, param: str | None
) -> None:
    client = await connect()
    good = {"conversation": conversation.pk, "parent": None, "content": "x", "target": "pirate", "id": "7"}
    await client.socket.send_json_to({**good, **frame})
    error = await client.last("error")
    assert (error["id"], error["code"], error["param"]) == ("7", code, param)
    assert not await Message.objects.aexists()


@pytest.mark.parametrize(
    ("text", "code"), [("{", "malformed_json"), ('{"type": NaN}', "malformed_json"), ("[]", "malformed_frame")]
)
async def test_what_is_no_frame_leaves_the_connection(
    conversation: Conversation, connect: Callable[..., Any], text: str, code: str
) -> None:
    client = await connect()
    await client.socket.send_to(text)
    error = await client.last("error")
    assert (error["code"], error["status"], error["id"], error["param"]) == (code, 400, None, None)
    await client.socket.send_to(bytes_data=b"\x00")
    assert (await client.last("error"))["code"] == "malformed_frame"
    await ask(client, conversation, "ahoy")
    assert (await client.last("done"))["message"]["content"] == "pirate says ahoy "


async def test_errors_say_what_http_would(conversation: Conversation, connect: Callable[..., Any]) -> None:
    client = await connect()
    given = {"conversation": conversation.pk, "parent": None, "content": "x"}
    await client.send("ask", id="1", target="nobody", **given)
    error = await client.last("error")
    assert (error["code"], error["status"]) == ("unknown_target", 404) and "retry_after" not in error
    await User.objects.filter(username="owner").aupdate(is_active=False)
    await client.send("ask", id="2", target="pirate", **given)
    error = await client.last("error")
    assert (error["code"], error["status"]) == ("revoked", 401)
    assert (await client.socket.receive_output(5))["code"] == 4401


async def test_a_frame_that_is_too_big_closes(
    conversation: Conversation, connect: Callable[..., Any], settings: Any
) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    client = await connect()
    await client.socket.send_to("x" * 1001)
    assert (await client.socket.receive_output(5))["code"] == 4413


async def test_a_failure_is_kept_with_its_message(conversation: Conversation, connect: Callable[..., Any]) -> None:
    client = await connect()
    await ask(client, conversation, "fail now")
    done = (await client.last("done"))["message"]
    assert done["state"] == "failed"
    assert done["info"]["error"]["code"] == "context_length_exceeded"


async def test_an_answer_that_another_process_writes(
    conversation: Conversation, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await connect()
    answer = (await ask(client, conversation, "hang on"))["answer"]["id"]
    await client.until("text")
    monkeypatch.setattr("chat.consumers.running", {})  # from here on a connection to another process
    other = await connect()
    await other.send("stop", message=answer)
    assert (await client.last("done"))["message"]["state"] == "stopped"
    await other.send("follow", message=answer)
    done = (await other.last("done"))["message"]
    assert (done["state"], done["id"]) == ("stopped", answer)

    monkeypatch.undo()  # continued, it is not stopped by the old word
    await client.send("continue", id="2", conversation=conversation.pk, message=answer)
    await client.until("text")
    assert not (await Message.objects.aget(pk=answer)).stop_asked
    await client.send("stop", message=answer)
    await client.until("done")


async def test_an_answer_that_waits_is_seen_to_live(
    conversation: Conversation, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SAVE_EVERY", 0.02)
    monkeypatch.setattr(keeping, "BEAT_EVERY", 0.02)
    client = await connect()
    row = Message.objects.filter(pk=(await ask(client, conversation, "mute"))["answer"]["id"])
    began = (await row.aget()).updated_at
    async with asyncio.timeout(30):
        while (await row.aget()).updated_at == began:
            await asyncio.sleep(0.01)
    assert (await row.aget()).state == State.RUNNING
