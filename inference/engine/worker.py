"""The engine's process: `python -m inference.engine.worker --fd N`.

N is the worker's end of a socket pair. Four threads: the main one runs the engine, others read commands, write events
and beat the heart. The end of the socket (the web process is gone, however it went) ends the worker at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import launching

from . import imports
from .config import EngineConfig
from .engine import Engine
from .intake import Intake
from .logs import JsonFormatter
from .protocol import Event

logger = logging.getLogger("loraportal.engine")

HEARTBEAT = 1.0  # seconds
SPARE = 800  # of 1000: how much rather than others a worker that stands back is ended
POISONED = 70  # exit status after a step that cannot be repeated: the manager starts a fresh worker


class Writer:
    """Events to the socket from any thread; never blocks the engine."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run, name="writer", daemon=True)
        self.thread.start()

    def send(self, event: Event) -> None:
        # Half a surrogate pair in a message must not cost the thread that sends it.
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":"), default=str)
        self.lines.put(line.encode("utf-8", "replace") + b"\n")

    def run(self) -> None:
        while (line := self.lines.get()) is not None:
            try:
                self.sock.sendall(line)
            except OSError:
                return

    def close(self) -> None:
        """Send what is queued, then stop; waits at most two seconds."""
        self.lines.put(None)
        self.thread.join(timeout=2.0)


def read_commands(sock: socket.socket, intake: Intake) -> None:
    """Until the web process is gone; then nobody is left to answer, and this process ends."""
    status = 0
    try:
        with sock.makefile("rb") as lines:
            for line in lines:
                try:
                    command: Any = json.loads(line)
                except (ValueError, RecursionError):
                    logger.error("a command was not JSON")
                    continue
                intake.take(command)
    except OSError:
        pass  # a reset: it was killed before it had read all that was sent
    except BaseException:
        logger.exception("commands cannot be read any more")
        status = POISONED
    finally:
        os._exit(status)


def beat(engine: Engine, writer: Writer, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        writer.send({"type": "heartbeat", "status": engine.snapshot})


def make_runner(config: EngineConfig) -> Any:
    module, _, name = config.runner.partition(":")
    return getattr(importlib.import_module(module), name)(config)


def stand_back(by: int) -> None:
    """Let every other process come first, and be the first to be ended where memory runs out."""
    os.nice(by)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(SPARE), encoding="ascii")


def main() -> int:
    launching.appear_as("lora-engine")
    parser = argparse.ArgumentParser(prog="inference.engine.worker")
    parser.add_argument("--fd", type=int, required=True)
    fd = parser.parse_args().fd
    config = EngineConfig.from_json(os.environ.get("LORAPORTAL_ENGINE", "{}"))
    handler = logging.StreamHandler(sys.stderr)
    line = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else line)
    logging.basicConfig(level=config.log_level, handlers=[handler])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the web side decides
    if config.nice > 0:
        stand_back(config.nice)
    sock = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    writer = Writer(sock)
    imports.begin()
    runner = make_runner(config)
    imports.end()
    engine = Engine(config, runner, writer.send)
    signal.signal(signal.SIGTERM, lambda *_: engine.inbox.put({"type": "shutdown"}))
    stop = threading.Event()
    threading.Thread(target=read_commands, args=(sock, Intake(engine)), name="reader", daemon=True).start()
    threading.Thread(target=beat, args=(engine, writer, stop), name="heartbeat", daemon=True).start()
    writer.send({"type": "ready", "pid": os.getpid(), "device": runner.device})
    status = 0
    try:
        engine.run()
    except Exception:
        logger.exception("the engine cannot go on")
        status = POISONED
    stop.set()
    writer.close()
    # Threads of the libraries may still hold work; nothing of it is wanted.
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    main()
