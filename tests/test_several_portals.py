"""Three portals on one database server and one fleet are one site, and lose nothing but a stream when one is killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.client as ws
from django.conf import settings as live_settings

from adapters.tests import layouts
from inference.tests.fake_vllm import FakeVllm, fake_vllm
from tests.fixtures.isolation import skip_for
from tests.fixtures.portal import (
    Portal,
    free_port,
    make_old,
    own_database,
    portal_environment,
    prepared_var_dir,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.database]

FOLDERS = 200  # a scan that reads them takes long enough to be met by others


@dataclass
class Trio:
    """Three portals, and the fleet that all of them ask."""

    portals: list[Portal]
    fleet: FakeVllm
    folder: Path

    def change_all(self) -> None:
        """Of one file that all copies share, the time: the next scan reads every folder again."""
        os.utime(self.folder / "adapters" / "first" / "adapter_config.json", (1e9, 1e9))

    def activated(self, name: str, by: Portal) -> dict[str, Any]:
        [found] = by.api("GET", f"/api/lora/models?search={name}", user="admin").json()["results"]
        answer = by.api("POST", f"/api/lora/models/{found['id']}/activate", {}, "admin")
        assert answer.status == 200, answer.text
        return dict(answer.json())


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """Started together on an empty database, as an orchestrator does it; one account, with two places for answers."""
    if not live_settings.DATABASE_URL.startswith("mysql") or not live_settings.REDIS_URL:
        skip_for("MariaDB or Redis")
    folder = tmp_path_factory.mktemp("several")
    layouts.base_model(folder / "models" / layouts.BASE_NAME)
    first = layouts.adapter(folder / "adapters" / "first")
    layouts.adapter(folder / "adapters" / "second", seed=2)
    for number in range(FOLDERS):
        shutil.copytree(first, folder / "adapters" / f"copy-{number}", copy_function=os.link)
    make_old(folder / "adapters")
    with (
        own_database(f"loraportal_several_{os.getpid()}") as database,
        fake_vllm(folder / "fleet", root=f"/srv/{layouts.BASE_NAME}") as fleet,
    ):
        shared = {
            **portal_environment(), **database, "HOST": "127.0.0.1",
            "SECRET_KEY": "the same in all", "SITE_NAME": "one",
            "STORE_DIR": str(folder / "store"), "LORA_ROOTS": str(folder / "adapters"),
            "BASE_MODELS_DIR": str(folder / "models"), "FLEET_DIR": str(folder / "fleet"),
            "INFERENCE_BACKEND": "vllm", "VLLM_URL": fleet.url, "SCAN_SETTLE_SECONDS": "0",
            "SCAN_INTERVAL": "0", "CHECK_BASES": "false",
            "PYTHONUNBUFFERED": "1",
            "USER_CONCURRENT": "2", "TOKEN_CONCURRENT": "2",
        }  # fmt: skip
        portals = []
        for name in ("a", "b", "c"):
            shutil.copytree(prepared_var_dir() / "static", folder / name / "static")
            port = free_port()
            environment = {**shared, "VAR_DIR": str(folder / name), "PORT": str(port)}
            portals.append(Portal(folder / name, port, environment))
        try:
            for portal in portals:
                portal.launch("--prepare")
            for portal in portals:
                portal.wait_up()
            token = portals[0].manage("issue_token", "admin").strip()
            for portal in portals:
                portal.tokens = {"admin": token}
            assert portals[0].api("POST", "/api/lora/scan", {}, "admin").status == 200
            yield Trio(portals, fleet, folder)
        finally:
            for portal in portals:
                if portal.process is not None and portal.process.poll() is None:
                    portal.stop()


def until(socket: Any, kind: str) -> dict[str, Any]:
    while (frame := json.loads(socket.recv(30)))["type"] != kind:
        assert frame["type"] != "error", frame
    return dict(frame)


@contextlib.contextmanager
def chat(portal: Portal) -> Iterator[Any]:
    head = {"Authorization": f"Bearer {portal.token('admin')}"}
    with ws.connect(f"{portal.ws_url}/ws/chat", additional_headers=head, proxy=None) as socket:
        yield socket


def ask(portal: Portal, socket: Any, model: str) -> int:
    """An answer that goes on until somebody ends it; its id, once it has begun."""
    conversation = portal.api("POST", "/api/chat/conversations", {}, "admin").json()["id"]
    frame = {"type": "ask", "conversation": conversation, "content": "hang on", "target": model}
    socket.send(json.dumps({**frame, "params": {"max_tokens": 4000}}))
    answer = int(until(socket, "started")["answer"]["id"])
    until(socket, "text")
    return answer


def complete(portal: Portal, model: str) -> Any:
    body = {"model": model, "prompt": "hello", "max_tokens": 20}
    return portal.api("POST", "/v1/completions", body, "admin")


def test_tables_and_the_admin_are_made_once(trio: Trio) -> None:
    logs = [portal.log for portal in trio.portals]
    assert sum(len(re.findall(r"Database: \d+ migrations", log)) for log in logs) == 1, logs
    assert sum(log.count("Admin account created") for log in logs) == 1, logs


def test_what_one_activates_all_serve(trio: Trio) -> None:
    a, b, c = trio.portals
    cookies = a.login("admin", password_of(trio))
    made = trio.activated("second", by=a)
    assert b.api("GET", f"/api/lora/models/{made['id']}", user="admin").json()["status"] == "active"
    told = complete(b, made["slug"])
    assert told.json()["choices"][0]["text"].startswith(f"{made['digest'][:6]} says"), told.text
    left = [int(complete(portal, made["slug"]).headers["x-ratelimit-remaining-requests"]) for portal in (c, a, b)]
    assert left == [left[0], left[0] - 1, left[0] - 2], "one limit for all"
    page = c.call("GET", f"/models/{made['id']}", Cookie=cookies)  # signed in at another
    assert page.status == 200 and 'data-testid="promotion"' in page.text
    wait_for(lambda: used(b) == used(a) > 0, what="what was asked, in everybody's figures")
    assert c.api("POST", f"/api/lora/models/{made['id']}/deactivate", {}, "admin").status == 200
    assert complete(a, made["slug"]).status == complete(b, made["slug"]).status == 404
    wait_for(lambda: not (trio.fleet.folder / made["digest"]).exists(), what="its folder to be withdrawn")


def test_stopped_and_followed_through_others(trio: Trio) -> None:
    a, b, c = trio.portals
    model = trio.activated("first", by=b)["slug"]
    with chat(a) as writer, chat(b) as reader, chat(c) as stopper:
        answer = ask(a, writer, model)
        reader.send(json.dumps({"type": "follow", "message": answer}))
        seen = until(reader, "sync")["text"]
        assert len(until(reader, "sync")["text"]) > len(seen), "it grows on another portal's page"
        gone = len(trio.fleet.left)
        stopper.send(json.dumps({"type": "stop", "message": answer}))
        ends = [until(socket, "done")["message"] for socket in (writer, reader)]
        assert [end["state"] for end in ends] == ["stopped", "stopped"] and ends[0]["content"] == ends[1]["content"]
        wait_for(lambda: len(trio.fleet.left) > gone, what="the end of the stream in the fleet")


def test_nothing_is_lost_with_a_killed_portal_but_its_stream(trio: Trio) -> None:
    a, b, c = trio.portals
    model = trio.activated("first", by=a)["slug"]
    with chat(a) as dying, chat(b) as living, chat(c) as third:
        lost, kept = ask(a, dying, model), ask(b, living, model)
        third.send(json.dumps({"type": "follow", "message": lost}))
        shown = until(third, "sync")["text"]
        refused = complete(c, model)
        assert (refused.status, refused.json()["error"]["code"]) == (429, "too_many_generations")
        trio.change_all()
        scanning = threading.Thread(target=scan, args=(a,))
        scanning.start()
        wait_for(lambda: b.api("GET", "/api/lora/scan", user="admin").json()["state"] == "running", what="the scan")
        assert c.api("POST", "/api/lora/scan", {}, "admin").status == 409, "one scan for all"
        gone = len(trio.fleet.left)
        process = a.process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        scanning.join()
        process.wait()
        until(living, "text")  # the others' answers go on
        end = until(third, "done")["message"]
        assert (end["state"], end["info"]["finish_reason"]) == ("stopped", "interrupted")
        assert end["content"].startswith(shown)
        wait_for(lambda: len(trio.fleet.left) > gone, what="the end of its stream in the fleet")
        assert complete(c, model).status == 200, "its place is free"
        assert c.api("POST", "/api/lora/scan", {}, "admin").status == 200, "and so is its lock"
        living.send(json.dumps({"type": "stop", "message": kept}))
        assert until(living, "done")["message"]["state"] == "stopped"
    a.start()
    assert complete(a, model).status == 200


def scan(portal: Portal) -> None:
    """A call whose answer never comes."""
    with contextlib.suppress(OSError):
        portal.api("POST", "/api/lora/scan", {}, "admin")


def password_of(trio: Trio) -> str:
    [password] = re.findall(r"Admin account created.*password (\S+)", "".join(portal.log for portal in trio.portals))
    return str(password)


def used(portal: Portal) -> int:
    return int(portal.api("GET", "/api/usage", user="admin").json()["totals"]["requests"])
