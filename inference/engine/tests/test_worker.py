"""The worker's process: it answers, ends in order, and never outlives the web process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


class Worker:
    def __init__(self, **config: Any) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(30)
        config.setdefault("runner", "inference.engine.fake:FakeRunner")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inference.engine.worker", "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], cwd=ROOT,
            env={**os.environ, "LORAPORTAL_ENGINE": json.dumps(config), "LORAPORTAL_FAKE_STEP": "0.005"},
        )  # fmt: skip
        theirs.close()
        self.sock = ours
        self.lines = ours.makefile("rb")

    def send(self, **command: Any) -> None:
        self.sock.sendall(json.dumps(command).encode() + b"\n")

    def generate(self, request_id: str, **params: Any) -> None:
        self.send(
            type="generate", id=request_id, user="u", base={"key": "k", "name": "base", "path": "/nowhere"},
            adapter=None, prompt="hello", params={"temperature": 0.0, **params},
        )  # fmt: skip

    def until(self, kind: str, request_id: str | None = None) -> dict[str, Any]:
        for line in self.lines:
            event: dict[str, Any] = json.loads(line)
            if event["type"] == kind and request_id in (None, event.get("id")):
                return event
        raise AssertionError(f"the worker ended before a {kind}")


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.process.kill()
    made.process.wait()


def test_it_says_ready_answers_and_beats(worker: Worker) -> None:
    assert worker.until("ready")["pid"] == worker.process.pid
    worker.generate("r", max_tokens=4)
    assert worker.until("done", "r")["usage"]["completion_tokens"] == 4
    assert worker.until("heartbeat")["status"]["state"] == "ready"


def test_the_end_of_the_socket_ends_it_even_in_the_middle_of_an_answer(worker: Worker) -> None:
    worker.until("ready")
    worker.generate("r", max_tokens=2000)
    worker.until("token", "r")
    worker.lines.close()
    worker.sock.close()
    assert worker.process.wait(10) == 0


def test_the_end_of_a_process_that_had_not_read_everything_ends_it(worker: Worker) -> None:
    """As a killed one: the kernel resets a socket that is closed with something unread in it."""
    worker.until("ready")
    worker.generate("r", max_tokens=2000)
    while worker.sock.recv(2**16, socket.MSG_PEEK).count(b"\n") < 3:  # it waits there, unread
        pass
    worker.lines.close()
    worker.sock.close()
    assert worker.process.wait(10) == 0


@pytest.mark.parametrize("how", ["command", "signal"])
def test_it_ends_in_order(worker: Worker, how: str) -> None:
    worker.until("ready")
    worker.generate("r", max_tokens=2000)
    worker.until("token", "r")
    if how == "command":
        worker.send(type="shutdown")
    else:
        worker.process.send_signal(signal.SIGTERM)
    assert worker.until("error", "r")["code"] == "shutting_down"
    assert worker.process.wait(10) == 0


def test_ctrl_c_in_the_terminal_is_the_web_sides_business(worker: Worker) -> None:
    worker.until("ready")
    worker.process.send_signal(signal.SIGINT)
    worker.generate("r", max_tokens=3)
    worker.until("done", "r")


def test_lines_that_are_not_commands_are_survived(worker: Worker) -> None:
    worker.until("ready")
    worker.sock.sendall(b"nonsense\n")
    worker.send(type="generate", id="odd")
    assert worker.until("error", "odd")["code"] == "internal_error"
    worker.generate("r", max_tokens=3)
    worker.until("done", "r")


@pytest.mark.parametrize(
    "line",
    [b"[]", b"null", b'"text"', b"7", b"{}", b'{"type": 5}', b'{"type": "generate"}', b"[" * 100_000, b"\xff\xfe"],
)
def test_lines_of_any_shape_leave_it_listening(worker: Worker, line: bytes) -> None:
    worker.until("ready")
    worker.sock.sendall(line + b"\n")
    worker.generate("r", max_tokens=3)
    worker.until("done", "r")


def test_half_a_character_in_a_message_does_not_end_the_writer(worker: Worker) -> None:
    worker.until("ready")
    worker.sock.sendall(b'{"type": "evict", "id": "\\ud800", "digest": "d"}\n')
    worker.generate("r", max_tokens=3)
    worker.until("done", "r")
