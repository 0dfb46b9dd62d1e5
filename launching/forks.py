"""Programs that are forked from a process which has imported what they need: see `fork_server.py`."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Unpack

from . import programs

logger = logging.getLogger(__name__)

AT_HAND = 600.0  # seconds that the process waits for the next program before it gives its memory back
LOOK = 0.5  # seconds between looks whether it still runs, while a program is not yet forked
WAITING = 64  # programs asked for while it imports
ANSWER = 256  # bytes
PATIENCE = 5.0  # seconds for its end
STDERR = 2
STREAMS: tuple[Literal["stdin", "stdout", "stderr"], ...] = ("stdin", "stdout", "stderr")
UNKNOWN = 255  # exit status of a program whose end nobody could tell


def possible() -> bool:
    """Whether this system has what it takes: Linux from 5.3 on, and a container that does not forbid it."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


class Forks:
    """One process that imports `modules` at the first program, and forks programs from then on.

    What libraries read of the environment while they are imported is as `environment` says, not as a program's own.
    """

    def __init__(
        self, modules: Sequence[str], environment: Callable[[], Mapping[str, str]], folder: str | Path
    ) -> None:
        self.modules = modules
        self.environment = environment
        self.folder = folder
        self._lock = threading.Lock()
        self._broken = not possible()
        self._server: subprocess.Popen[bytes] | None = None
        self._listener: socket.socket | None = None

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], **options: Unpack[programs.Options]
    ) -> programs.Child:
        """As `programs.start`, for `[sys.executable, "-m", module, ...]`; where nothing can be forked, by it. The
        streams are files or DEVNULL."""
        try:
            connection = self._connect()
        except OSError as error:
            logger.debug("nothing can be forked: %s", error)
            return programs.start(words, environment, **options)
        descriptors = options.get("descriptors", ())
        asked = {
            "module": words[2], "arguments": words[3:], "environment": dict(environment),
            "folder": str(options.get("folder", "/")), "descriptors": list(descriptors),
        }  # fmt: skip
        try:
            with open(os.devnull, "r+b", buffering=0) as nothing:
                streams = [options.get(name, subprocess.DEVNULL) for name in STREAMS]
                files = [nothing if stream == subprocess.DEVNULL else stream for stream in streams]
                numbers = [file if isinstance(file, int) else file.fileno() for file in files]
                socket.send_fds(connection, [json.dumps(asked).encode()], [*numbers, *descriptors])
        except OSError:  # an environment too long for one packet
            connection.close()
            return programs.start(words, environment, **options)
        return Forked(words, connection, self._look)

    def close(self) -> None:
        """The process ends, and with it what it has forked."""
        with self._lock:
            self._end()

    def _connect(self) -> socket.socket:
        with self._lock:
            address = self._ensure().getsockname()
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.settimeout(1.0)  # where too many wait, the next one is started otherwise
                connection.connect(address)
            except OSError:
                connection.close()
                raise
            return connection

    def _look(self) -> None:
        """Programs still wait to be forked: a process that has ended for want of work takes them up again."""
        with self._lock, contextlib.suppress(OSError):
            if self._listener is not None:
                self._ensure()

    def _ensure(self) -> socket.socket:
        """The socket at which the process listens, or will. Raises OSError where nothing can be forked."""
        if self._broken:
            raise OSError("it did not start")
        if self._server is not None and (status := self._server.poll()) is not None:
            if status != 0:
                logger.warning("the process that forks programs ended with status %s; they start without it", status)
                self._broken = True
                self._end()
                raise OSError("it ended")
            self._server.stdin.close()  # type: ignore[union-attr]
            self._server = None
        if self._listener is None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listener.bind("")  # Linux chooses a name, which no file has; the process looks who asks
            self._listener.listen(WAITING)
            atexit.register(self.close)
        if self._server is None:
            words = [sys.executable, "-m", "launching.fork_server"]
            descriptor = self._listener.fileno()
            self._server = programs.start(
                [*words, str(descriptor), str(AT_HAND), *self.modules], self.environment(), stdin=subprocess.PIPE,
                stderr=STDERR, descriptors=[descriptor], folder=self.folder,
            )  # fmt: skip
        return self._listener

    def _end(self) -> None:
        atexit.unregister(self.close)
        if self._listener is not None:  # who still waits learns of it
            self._listener.close()
            self._listener = None
        server, self._server = self._server, None
        if server is not None:
            server.stdin.close()  # type: ignore[union-attr]
            try:
                server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


class Forked:
    """A program that was asked for: forked, or about to be: `pid` is None until then."""

    def __init__(self, words: Sequence[str], connection: socket.socket, look: Callable[[], None]) -> None:
        self.words = list(words)
        self.returncode: int | None = None
        self._connection = connection
        self._look = look
        self._pid: int | None = None
        self._handle: int | None = None  # pidfd
        self._killed = False
        self._lock = threading.Lock()
        connection.setblocking(False)

    @property
    def pid(self) -> int | None:
        self._listen()
        return self._pid

    def poll(self) -> int | None:
        self._listen()
        if self.returncode is None and self._pid is None:
            self._look()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = LOOK if end is None else min(LOOK, end - time.monotonic())
            if left <= 0:
                raise subprocess.TimeoutExpired(self.words, timeout or 0.0)
            waiting = select.poll()  # `select` takes no descriptor above 1023
            with self._lock:
                for source in (self._connection.fileno(), self._handle):
                    if source is not None and source >= 0:
                        waiting.register(source, select.POLLIN)
            waiting.poll(1000 * left)
        return status

    def kill(self) -> None:
        self.poll()
        with self._lock:
            if self.returncode is not None:
                return
            self._killed = True
            if self._handle is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            else:
                self._ended(-signal.SIGKILL)  # its connection is closed, so it is not forked, or killed at once

    def _listen(self) -> None:
        with self._lock:
            while self.returncode is None and self._hear():
                pass

    def _hear(self) -> bool:
        """One packet, or the end; false where nothing has come."""
        if self._connection.fileno() < 0:  # of a process that was killed: what it forked goes on, and ends unseen by it
            if _over(self._handle):
                self._ended(-signal.SIGKILL if self._killed else UNKNOWN)
            return False
        try:
            packet, files, _flags, _sender = socket.recv_fds(self._connection, ANSWER, 1)
        except BlockingIOError:
            return False
        except OSError:
            packet, files = b"", []
        if files:
            os.set_inheritable(files[0], False)
            self._handle, self._pid = files[0], json.loads(packet)["pid"]
        elif packet:
            self._ended(json.loads(packet)["status"])
        elif self._handle is not None:
            self._connection.close()
        else:
            self._ended(UNKNOWN)
        return True

    def _ended(self, status: int) -> None:
        self.returncode = status
        self._connection.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            os.close(self._handle)  # type: ignore[arg-type]


def _over(handle: int | None) -> bool:
    """Of a process, by its pidfd."""
    waiting = select.poll()
    waiting.register(handle or 0, select.POLLIN)
    return bool(waiting.poll(0))
