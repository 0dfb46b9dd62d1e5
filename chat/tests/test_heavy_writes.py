"""Long conversations are imported, exported and deleted without anybody else waiting for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test import Client
from django.utils.translation import override

from accounts.models import ApiToken
from chat import whole
from chat.flows import branch
from chat.models import Conversation, Message
from common import turns
from inference.tests.test_server import database_url
from tests.fixtures.portal import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
URL = "/api/chat/import"


def long_conversation(count: int = 600) -> dict[str, Any]:
    """A branch, and beside its first message another answer."""
    roles = ("user", "assistant")
    turns = [
        {"id": n + 10, "parent": n + 9 if n else None, "role": roles[n % 2], "content": f"turn {n}"}
        for n in range(count)
    ]
    return {
        "title": "long",
        "messages": [*turns, {"id": 5, "parent": 10, "role": "assistant", "content": "another"}],
        "leaf": count + 9,
    }


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def post(path: str, data: Any, token: str) -> Any:
    """From a thread of its own, as each request of a server has one."""
    try:
        return Client(raise_request_exception=False).post(
            path, data, content_type="application/json", headers=bearer(token)
        )
    finally:
        connection.close()


@contextmanager
def held_import(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The first import stops in the middle of its transaction; the event says that it has come there."""
    middle, go = threading.Event(), threading.Event()
    set_parents = whole._set_parents

    def stop(pairs: list[tuple[int, int]]) -> None:
        if not middle.is_set():
            middle.set()
            assert go.wait(60)
        set_parents(pairs)

    monkeypatch.setattr(whole, "_set_parents", stop)
    try:
        yield middle
    finally:
        go.set()


def test_an_import_is_whole(owner: User, token_for: Callable[..., str], django_assert_max_num_queries: Any) -> None:
    given = long_conversation()
    with django_assert_max_num_queries(40):
        made = post(URL, given, token_for(owner, "infer")).json()
    messages = list(Message.objects.filter(conversation=made["id"]).order_by("pk"))
    places = {message["id"]: place for place, message in enumerate(given["messages"])}
    assert [message.content for message in messages] == [message["content"] for message in given["messages"]]
    parents = [None if item["parent"] is None else messages[places[item["parent"]]].pk for item in given["messages"]]
    assert [message.parent_id for message in messages] == parents
    assert made["leaf"] == messages[-2].pk
    assert len(branch(Conversation.objects.get(), made["leaf"])) == 600


def test_deleting_takes_its_messages_alone(
    owner: User, token_for: Callable[..., str], django_assert_max_num_queries: Any
) -> None:
    token = token_for(owner, "infer")
    kept, gone = (post(URL, long_conversation(), token).json()["id"] for _ in range(2))
    with django_assert_max_num_queries(40):
        answer = Client().delete(f"/api/chat/conversations/{gone}", headers=bearer(token))
    assert answer.status_code == 204
    assert set(Message.objects.values_list("conversation_id", flat=True)) == {kept}
    assert Message.objects.count() == 601 and Conversation.objects.get().pk == kept


def test_thirty_imports_stop_nobody_else(
    owner: User, teammate: User, token_for: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, quiet = token_for(owner, "infer"), token_for(teammate, "infer")
    reader = Client()
    reader.force_login(teammate)
    ApiToken.objects.update(last_used_at=None)
    data = long_conversation(40)
    with ThreadPoolExecutor(turns.EACH) as pool:
        with held_import(monkeypatch) as middle:
            imports = [pool.submit(post, URL, data, busy)]
            assert middle.wait(30)
            imports += [pool.submit(post, URL, data, busy) for _ in range(turns.EACH - 1)]
            wait_for(lambda: turns.turns._counts[owner.pk] == turns.EACH, what="the queue")
            assert reader.get("/chat").status_code == 200
            assert reader.get("/api/chat/conversations").json()["count"] == 0
            assert Client().get("/api/chat/conversations", headers=bearer(quiet)).status_code == 200
            assert Client().get("/api/chat/conversations", headers=bearer(busy)).json()["count"] == 0, (
                "nothing by halves"
            )
            with ThreadPoolExecutor(1) as other:
                refused = other.submit(post, URL, data, busy).result()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
            assert int(refused.headers["Retry-After"]) >= 1
        assert [call.result().status_code for call in imports] == [201] * turns.EACH
    assert Message.objects.count() == turns.EACH * 41 and not turns.turns._counts


@pytest.mark.parametrize("end", [KeyError("a fault"), OperationalError(1205, "Lock wait timeout exceeded")])
def test_an_import_that_fails_in_the_middle_leaves_nothing(
    owner: User, token_for: Callable[..., str], monkeypatch: pytest.MonkeyPatch, end: Exception
) -> None:
    def fail(pairs: list[tuple[int, int]]) -> None:
        raise end

    monkeypatch.setattr(whole, "_set_parents", fail)
    answer = post(URL, long_conversation(), token_for(owner, "infer"))
    busy = isinstance(end, OperationalError)
    assert (answer.status_code, answer.json()["error"]["code"]) == (
        (503, "database_busy") if busy else (500, "server_error")
    )
    assert ("Retry-After" in answer.headers) == busy
    assert not Conversation.objects.exists() and not Message.objects.exists()


KILLED = """
import json, os, signal, sys, django
django.setup()
from django.contrib.auth.models import User
from chat import transfer, whole
whole._set_parents = lambda pairs: os.kill(os.getpid(), signal.SIGKILL)
transfer.import_file(User.objects.get(), json.load(sys.stdin), 1)
"""


def test_an_import_that_is_killed_in_the_middle_leaves_nothing(owner: User) -> None:

    environment = {**os.environ, "DATABASE_URL": database_url()}
    ended = subprocess.run(
        [sys.executable, "-c", KILLED], env=environment, input=json.dumps(long_conversation()), text=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert not Conversation.objects.exists() and not Message.objects.exists()


def test_a_page_that_meets_a_busy_database_says_so(
    client: Client, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_given: Any) -> None:
        raise OperationalError(1205, "Lock wait timeout exceeded")

    client.force_login(owner)
    client.raise_request_exception = False
    monkeypatch.setattr("accounts.pages.issue_token", busy)
    with override("en"):  # a request leaves its language to the thread
        answer = client.post("/tokens", {"name": "laptop", "scopes": ["infer"]}, headers={"Accept-Language": "zh-hans"})
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
    assert "数据库" in answer.content.decode() and "1205" not in answer.content.decode()
