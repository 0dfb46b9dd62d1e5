"""kill -9 of a portal in the middle of things: what is left is put right by the next start, and nobody waits."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import websockets.sync.client as ws
from django.db import connection
from websockets.exceptions import ConnectionClosed

from adapters.tests import layouts
from tests.fixtures.clock import Clock
from tests.fixtures.hub import FakeHub, Repo, fake_hub
from tests.fixtures.portal import Portal, free_port, make_old, run_python, running_portal, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.database]

HIDDEN, LAYERS, RANK = 1024, 4, 512  # the adapter has 140 MB
FOLDERS = 1500
READ = 600  # characters
LOST_SECONDS = 1.0  # of text at most
SAVED = """
import sys, time, django
django.setup()
from chat.models import Message
while len(Message.objects.values_list("content", flat=True).get(pk=sys.argv[1])) < int(sys.argv[2]):
    time.sleep(0.02)
"""


@pytest.fixture(scope="module", name="mortal_hub")
def hub_of_mortals() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture(scope="module", name="clock")
def clock_of_mortals(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module", name="mortal")
def mortal_portal(tmp_path_factory: pytest.TempPathFactory, mortal_hub: FakeHub, clock: Clock) -> Iterator[Portal]:
    """One answer at a time for everybody; the engine is a fake that says a character every few milliseconds."""
    var_dir = tmp_path_factory.mktemp("killed") / "var"
    layouts.base_model(var_dir / "models" / layouts.BASE_NAME, HIDDEN, LAYERS)
    large = layouts.lora_tensors(RANK, tuple(layouts.OUT), LAYERS, hidden=HIDDEN)
    layouts.adapter(var_dir / "adapters" / "large", large, r=RANK, target_modules=list(layouts.OUT))
    layouts.adapter(var_dir / "adapters" / "small-0")
    make_old(var_dir / "adapters")
    fake = {"ENGINE_RUNNER": "inference.engine.fake:FakeRunner", "LORAPORTAL_FAKE_STEP": "0.004"}
    fake["CHECK_BASES"] = "false"  # the fake serves this base; the engine itself would not
    more = {**fake, **mortal_hub.environment, **clock.environment}
    with running_portal(var_dir, USER_CONCURRENT="1", TOKEN_CONCURRENT="1", **more) as portal:
        yield portal


def in_background(portal: Portal, path: str) -> threading.Thread:
    """A call whose answer never comes."""

    def call() -> None:
        with contextlib.suppress(OSError):
            portal.api("POST", path, {})

    thread = threading.Thread(target=call)
    thread.start()
    return thread


def kill(portal: Portal) -> subprocess.Popen[bytes]:
    """Ends it as the kernel does when memory is short; nobody waits for it yet. The engine's process goes with it."""
    process, worker = portal.process, portal.worker_pid
    assert process is not None
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if worker is not None:
        wait_for(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == "zombie", 10, "its end")
    return process


def test_a_killed_scan_is_over_at_the_start(mortal: Portal) -> None:
    adapters = mortal.var_dir / "adapters"
    for number in range(1, FOLDERS):
        shutil.copytree(adapters / "small-0", adapters / f"small-{number}", copy_function=os.link)
    make_old(adapters)
    thread = in_background(mortal, "/api/lora/scan")

    def under_way() -> bool:
        answer = mortal.api("GET", "/api/lora/scan")
        return answer.status == 200 and answer.json()["state"] == "running" and answer.json()["done"] > 0

    wait_for(under_way, what="the scan")
    process = kill(mortal)
    thread.join()
    mortal.start()
    assert mortal.api("GET", "/api/lora/scan").json()["state"] == "failed"
    answer = mortal.api("POST", "/api/lora/scan", {}, timeout=300)
    assert (answer.status, answer.json()["found"]) == (200, FOLDERS + 1)
    process.wait()


def test_a_killed_activation_leaves_nothing_and_nobody_waits(mortal: Portal) -> None:
    mortal.api("POST", "/api/lora/scan", {}, timeout=300)
    found = mortal.api("GET", "/api/lora/models?search=large").json()["results"][0]
    store = mortal.var_dir / "store"
    for _time in range(3):
        thread = in_background(mortal, f"/api/lora/models/{found['id']}/activate")
        wait_for(lambda: any(store.glob(".partial-*/*.safetensors")), what="the copy")
        process = kill(mortal)
        thread.join()
        assert any(store.iterdir()), "it was killed before it was done"
        mortal.start()
        assert list(store.iterdir()) == []
        process.wait()
    answer = mortal.api("POST", f"/api/lora/models/{found['id']}/activate", {})
    assert (answer.status, answer.json()["status"]) == (200, "active")
    assert [path.name for path in store.iterdir()] == [answer.json()["digest"]]


def test_a_killed_import_goes_on_where_it_ended(mortal: Portal, mortal_hub: FakeHub) -> None:
    small = mortal.var_dir / "adapters" / "small-0"
    mortal_hub.repos["ada/mortal"] = Repo({path.name: path.read_bytes() for path in small.iterdir()})
    mortal_hub.hold_after = 500
    asked = {"repo": "ada/mortal"}
    call = f"/api/lora/imports/{mortal.api('POST', '/api/lora/imports', asked).json()['id']}"
    arriving = mortal.var_dir / "uploads" / ".arriving"
    wait_for(lambda: any(file.stat().st_size == 500 for file in arriving.glob("*/*")), what="half a file")
    process = kill(mortal)
    mortal_hub.release.set()
    mortal.start()
    failure = mortal.api("GET", call).json()["failure"]
    assert failure["code"] == "import_interrupted"
    call = f"/api/lora/imports/{mortal.api('POST', '/api/lora/imports', asked).json()['id']}"
    wait_for(lambda: mortal.api("GET", call).json()["state"] == "done", 120, what="the import")
    assert [came.headers["Range"] for came in mortal_hub.files.came] == [None, "bytes=500-"]
    assert list(arriving.iterdir()) == []
    process.wait()


def connect(portal: Portal) -> Any:
    head = {"Authorization": f"Bearer {portal.token()}"}
    return ws.connect(f"{portal.ws_url}/ws/chat", additional_headers=head, proxy=None)


def until(socket: Any, kind: str) -> dict[str, Any]:
    while (frame := json.loads(socket.recv(30)))["type"] != kind:
        assert frame["type"] != "error", frame
    return dict(frame)


def saved(portal: Portal, answer: int, characters: int) -> None:
    """Wait, by the machine's clock, until the database has that many of an answer."""
    environment = {**portal.environment, "DJANGO_SETTINGS_MODULE": "loraportal.settings", "LORAPORTAL_TEST_CLOCK": ""}
    run_python(environment, "-c", SAVED, str(answer), str(characters))


def test_a_killed_answer_has_ended_and_keeps_what_was_read(mortal: Portal, clock: Clock) -> None:
    """But for the last second of its text."""
    mortal.api("POST", "/api/lora/scan", {}, timeout=300)
    base = mortal.api("GET", "/api/lora/bases").json()["results"][0]["slug"]
    conversation = mortal.api("POST", "/api/chat/conversations", {}).json()["id"]
    ask = {"type": "ask", "conversation": conversation, "content": "go", "target": base, "params": {"max_tokens": 4000}}
    text = ""
    with clock.standing(), connect(mortal) as socket:
        socket.send(json.dumps(ask))
        answer = until(socket, "started")["answer"]["id"]
        while len(text) < READ:
            text += until(socket, "text")["text"]
        clock.advance(LOST_SECONDS)
        saved(mortal, answer, len(text))
        owed = len(text)
        process = kill(mortal)
        with contextlib.suppress(ConnectionClosed):
            while True:
                text += json.loads(socket.recv(30)).get("text", "")
    mortal.start()
    end = mortal.api("GET", f"/api/chat/conversations/{conversation}").json()["messages"][-1]
    assert (end["id"], end["state"], end["info"]["finish_reason"]) == (answer, "stopped", "interrupted")
    assert len(end["content"]) >= owed
    assert text.startswith(end["content"]) or end["content"].startswith(text)
    with connect(mortal) as socket:  # the only place that this account has is free
        socket.send(json.dumps({"type": "continue", "conversation": conversation, "message": answer}))
        assert until(socket, "started")["answer"]["state"] == "running"
        until(socket, "text")
        socket.send(json.dumps({"type": "stop", "message": answer}))
        done = until(socket, "done")["message"]
    assert done["state"] == "stopped" and done["content"].startswith(end["content"])
    process.wait()


def test_a_killed_evaluation_goes_on_with_what_is_left(mortal: Portal) -> None:
    mortal.api("POST", "/api/lora/scan", {}, timeout=300)
    base = mortal.api("GET", "/api/lora/bases").json()["results"][0]["slug"]
    items = [{"prompt": f"number {number}"} for number in range(24)]
    prompts = mortal.api("POST", "/api/evaluations/sets", {"name": "numbers", "items": items}).json()["id"]
    wanted = {"prompts": prompts, "targets": [base], "params": {"max_tokens": 60}}
    run = f"/api/evaluations/runs/{mortal.api('POST', '/api/evaluations/runs', wanted).json()['id']}"

    def done() -> int:
        return int(mortal.api("GET", run).json()["done"])

    wait_for(lambda: done() >= 4, what="the first answers")
    process = kill(mortal)
    mortal.start()
    assert 4 <= done() <= 24
    wait_for(lambda: mortal.api("GET", run).json()["state"] == "done", 60, "its end")
    assert (done(), mortal.api("GET", run).json()["reused"]) == (24, 0)
    process.wait()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="one portal alone has SQLite's file")
def test_another_portal_sees_at_once_that_the_writer_is_gone(mortal: Portal, tmp_path: Path) -> None:
    """Two portals over one database: the killed one need not come back."""
    mortal.api("POST", "/api/lora/scan", {}, timeout=300)
    base = mortal.api("GET", "/api/lora/bases").json()["results"][0]["slug"]
    conversation = mortal.api("POST", "/api/chat/conversations", {}).json()["id"]
    ask = {"type": "ask", "conversation": conversation, "content": "go", "target": base, "params": {"max_tokens": 4000}}
    other, process = second(mortal, tmp_path), mortal.process
    assert process is not None
    other.start()
    try:
        with connect(mortal) as socket, connect(other) as reader:
            socket.send(json.dumps(ask))
            answer = until(socket, "started")["answer"]["id"]
            until(socket, "text")
            reader.send(json.dumps({"type": "follow", "message": answer}))
            until(reader, "sync")
            kill(mortal)
            assert until(reader, "done")["message"]["state"] == "stopped"
            reader.send(
                json.dumps({"type": "again", "conversation": conversation, "message": answer - 1, "target": base})
            )
            until(reader, "text")
    finally:
        other.stop()
        process.kill()
        process.wait()
        mortal.start()


def second(portal: Portal, folder: Path) -> Portal:
    """A portal with folders and a port of its own over the same database and models."""
    folder = folder / "second"
    folder.mkdir()
    shutil.copytree(portal.var_dir / "static", folder / "static")
    shutil.copy(portal.var_dir / "secret_key", folder / "secret_key")
    port = free_port()
    environment = {
        **portal.environment,
        "VAR_DIR": str(folder),
        "PORT": str(port),
        "BASE_MODELS_DIR": str(portal.var_dir / "models"),
        "LORA_ROOTS": str(portal.var_dir / "adapters"),
    }
    return Portal(folder, port, environment, portal.tokens)
