"""The engine's worker process: starting it, its end of the socket pair, lines in and out, and its end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import launching
from inference.engine.protocol import MAX_LINE

logger = logging.getLogger(__name__)

CHUNK = 256 * 1024
MAX_LOG_BYTES = 16 * 2**20


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker is started. `command` is followed by `--fd N`; times are seconds."""

    config: Mapping[str, Any]
    log_path: Path
    folder: Path  # the project's folder
    command: tuple[str, ...] = (sys.executable, "-m", "inference.engine.worker")
    start_timeout: float = 120.0
    heartbeat_timeout: float = 20.0
    environment: Mapping[str, str] = field(default_factory=dict)
    starter: launching.Starter = launching.start


class WorkerGoneError(Exception):
    """The worker closed its end, or sent what is no line of the protocol."""


class WorkerProcess:
    """One worker. Every method but `kill` belongs to the I/O thread; none blocks on the worker."""

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        # Seconds in which the I/O thread waited for a word of the worker: since it was started, and since the last one
        self.listened = self.silence = 0.0
        self.ready = False
        self.completed = 0  # requests that it answered
        self._in = bytearray()
        self._out = bytearray()
        self.socket, far = socket.socketpair()
        try:
            self.socket.setblocking(False)
            with open_log(options.log_path) as log:
                words = [*options.command, "--fd", str(far.fileno())]
                self.process = options.starter(
                    words, environment(options), stdout=log, stderr=log,
                    descriptors=[far.fileno()], folder=options.folder,
                )  # fmt: skip
        except OSError:
            self.socket.close()
            raise
        finally:
            far.close()

    @property
    def pid(self) -> int | None:
        """None until there is a process."""
        return self.process.pid

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    def send(self, line: bytes) -> None:
        """Queue one encoded line and push what the socket takes now."""
        self._out += line
        self.flush()

    def flush(self) -> None:
        while self._out:
            try:
                sent = self.socket.send(memoryview(self._out)[:CHUNK])
            except BlockingIOError:
                return
            except OSError:
                return  # the reading side notices and knows more
            del self._out[:sent]

    def receive(self, handle: Callable[[dict[str, Any]], None]) -> None:
        """Read what has come and hand over each event.

        Raises WorkerGoneError at the end of the stream, and at a line that is too long or is not JSON.
        """
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise WorkerGoneError(str(error)) from error
        if not data:
            raise WorkerGoneError("end of stream")
        self.silence = 0.0
        scanned = len(self._in)
        self._in += data
        if len(self._in) > MAX_LINE and b"\n" not in data:
            raise WorkerGoneError("a line without end")
        start = 0
        while (end := self._in.find(b"\n", max(start, scanned))) >= 0:
            try:
                event = json.loads(self._in[start:end])
            except ValueError as error:
                raise WorkerGoneError("a line that is not JSON") from error
            start = end + 1
            handle(event)
        del self._in[:start]

    def exited(self) -> bool:
        return self.process.poll() is not None

    def end(self, patience: float = 1.0) -> str:
        """Make sure that the process is gone and reaped; says how it ended."""
        self.socket.close()
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        if code < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit status {code}"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


def encode(command: Mapping[str, Any]) -> bytes:
    """One line of the protocol. Raises ValueError where it is too long."""
    line = json.dumps(command, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise ValueError("the command does not fit into one line")
    return line


def engine_environment(folder: Path) -> dict[str, str]:
    """The environment of the engine's programs; `folder`: the project's."""
    return {
        **launching.without_secrets(),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def environment(options: WorkerOptions) -> dict[str, str]:
    return {
        **engine_environment(options.folder),
        "LORAPORTAL_ENGINE": json.dumps(dict(options.config)),
        **options.environment,
    }


def open_log(path: Path) -> Any:
    """The worker's log, appended to; a big one is put aside once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
    return open(path, "ab")
