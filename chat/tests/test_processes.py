"""Two web processes over one database: an answer that one writes is followed and stopped through the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from websockets.sync.client import connect

from inference.tests.test_server import Site

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def sites(
    tmp_path: Path, registry: SimpleNamespace, owner: User, token_for: Callable[..., str]
) -> Iterator[list[Site]]:
    token = token_for(owner, "infer")
    made: list[Site] = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            made.append(Site(tmp_path / name, token))
        yield made
    finally:
        for site in made:
            site.process.terminate()
        for site in made:
            site.process.wait(15)


def open_chat(site: Site) -> Any:
    head = {"Authorization": f"Bearer {site.token}"}
    return connect(f"ws://127.0.0.1:{site.port}/ws/chat", additional_headers=head, proxy=None)


def until(socket: Any, kind: str) -> dict[str, Any]:
    while (frame := json.loads(socket.recv(10)))["type"] != kind:
        pass
    return dict(frame)


def test_stop_through_another_process(sites: list[Site]) -> None:
    status, conversation = sites[0].call("POST", "/api/chat/conversations", {})
    assert status == 201
    with open_chat(sites[0]) as writer, open_chat(sites[1]) as other:
        ask = {"type": "ask", "id": "1", "conversation": conversation["id"], "content": "hang on", "target": "pirate"}
        writer.send(json.dumps(ask))
        answer = until(writer, "started")["answer"]["id"]
        until(writer, "text")
        other.send(json.dumps({"type": "follow", "message": answer}))
        until(other, "sync")
        other.send(json.dumps({"type": "stop", "message": answer}))
        ends = [until(socket, "done")["message"] for socket in (writer, other)]
    assert [end["state"] for end in ends] == ["stopped", "stopped"]
    assert ends[0]["content"] == ends[1]["content"] != ""
