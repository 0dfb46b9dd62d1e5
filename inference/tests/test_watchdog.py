"""A worker that says nothing is ended; a web process that could not listen ends nobody. The clock is the test's."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference.backends import io_thread
from inference.backends.interface import Event, Request
from inference.backends.local import LocalBackend
from inference.backends.process import WorkerOptions
from inference.backends.supervisor import TICK

BASE: Any = {"key": "b" * 64, "path": "/models/tiny", "name": "tiny"}
LONG = 60.0  # seconds of starvation, longer than both timeouts
START_TIMEOUT, HEARTBEAT_TIMEOUT = 30.0, 20.0


class Popen:
    """A process that the test plays: its end of the socket is `far`."""

    def __init__(self, words: Any, environment: Any, *, descriptors: Sequence[int] = (), **other: Any) -> None:
        self.far = socket.socket(fileno=os.dup(descriptors[0]))
        self.pid = 4711
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.returncode = -9
        self.far.close()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return self.returncode

    def say(self, **event: Any) -> None:
        self.far.sendall(json.dumps(event).encode() + b"\n")


class World:
    """A backend whose turns the test makes, and its clock. Waiting for nothing takes no time of ours."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.between: Callable[[], None] | None = None  # what happens after a wait, before the thread runs on
        world = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                ready = super().select(0)
                if not ready:
                    assert timeout is not None, "nothing would ever wake the thread"
                    world.now += timeout
                happens, world.between = world.between, None
                if happens is not None:
                    happens()
                return ready

        names = {"EVENT_READ": selectors.EVENT_READ, "EVENT_WRITE": selectors.EVENT_WRITE}
        monkeypatch.setattr(io_thread, "selectors", SimpleNamespace(DefaultSelector=Selector, **names))
        monkeypatch.setattr(io_thread.IoThread, "start", lambda self: None)
        options = WorkerOptions(
            config={},
            log_path=folder / "log",
            folder=folder,
            start_timeout=START_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            starter=Popen,
        )
        self.backend = LocalBackend(options, clock=lambda: self.now)
        self.events: list[dict[str, Any]] = []
        self.backend.submit("1", Request("u", BASE, prompt="hello"), self.hear)
        self.turn()

    def hear(self, event: Event) -> bool:
        self.events.append(dict(event))
        return True

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.backend._io.turn()

    @property
    def worker(self) -> Popen:
        worker = self.backend._supervisor.worker
        assert worker is not None, "it was ended"
        return worker.process  # type: ignore[return-value]

    def starve(self, *meanwhile: dict[str, Any]) -> None:
        """The next turn finds an empty socket, and the thread comes to act on it much later; the worker spoke."""

        def late() -> None:
            self.now += LONG
            for event in meanwhile:
                self.worker.say(**event)

        self.turn(2)  # whatever lies there is read
        self.between = late
        self.turn()

    def turns_until_killed(self) -> int:
        worker, turns = self.worker, 0
        while worker.returncode is None:
            self.turn()
            turns += 1
            assert turns < 10_000, "nothing ends it"
        self.turn()  # its end of the socket is closed
        return turns


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_starved_web_process_does_not_end_a_healthy_engine(world: World) -> None:
    worker = world.worker
    worker.say(type="ready", device="cpu")
    world.turn(3)
    for _ in range(5):
        world.starve({"type": "heartbeat", "status": {}}, {"type": "token", "id": "1", "index": 0, "text": "x"})
    worker.say(type="done", id="1", finish_reason="stop")
    world.turn(3)
    assert world.worker is worker and worker.returncode is None
    assert world.backend.snapshot()["restarts"] == 0
    assert [event["type"] for event in world.events if event["type"] != "loading"] == ["token"] * 5 + ["done"]


def test_an_engine_that_starts_meanwhile_is_let_start(world: World) -> None:
    worker = world.worker
    world.starve()
    world.starve({"type": "ready", "device": "cpu"})
    world.turn(2)
    assert world.worker is worker and world.backend.snapshot()["state"] == "ready"


def test_a_silent_engine_is_ended_after_its_time(world: World) -> None:
    world.worker.say(type="ready", device="cpu")
    world.turn()
    turns = world.turns_until_killed()
    assert 0 <= turns * TICK - HEARTBEAT_TIMEOUT <= 2 * TICK
    assert world.events[-1]["code"] == "engine_crashed"
    assert world.backend.snapshot()["restarts"] == 1


def test_a_silent_engine_is_ended_by_a_starved_web_process_too(world: World) -> None:
    """Starvation takes nothing off its account: it is ended after as many turns that listened in vain."""
    world.worker.say(type="ready", device="cpu")
    world.turn()
    worker = world.worker
    for _ in range(3):
        world.starve()
    assert worker.returncode is None
    assert world.turns_until_killed() * TICK <= HEARTBEAT_TIMEOUT


def test_an_engine_that_never_becomes_ready_is_ended_after_its_time(world: World) -> None:
    turns = world.turns_until_killed()
    assert 0 <= turns * TICK - START_TIMEOUT <= 2 * TICK
    assert world.backend.snapshot()["restarts"] == 0
