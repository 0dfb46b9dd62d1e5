"""Starting programs, and running them to their end within bounds."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, TypedDict, Unpack

LONGEST = 2**20  # bytes of what a program says
CHUNK = 2**16
HEARD_EVERY = 0.5  # seconds


class TookTooLongError(Exception):
    """A program that was killed because its time was over."""


@dataclass(frozen=True)
class Ended:
    """`status` as subprocess gives it (below 0: killed by that signal); `output`, `errors`: what it said, cut."""

    status: int
    output: bytes
    errors: bytes


class Child(Protocol):
    """What subprocess.Popen is, as far as it is used here. `pid` is None before there is a process."""

    @property
    def pid(self) -> int | None: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


class Options(TypedDict, total=False):
    """Of a start. Streams are DEVNULL where nothing is said; `descriptors` stay open in the program."""

    stdin: int | IO[bytes]
    stdout: int | IO[bytes]
    stderr: int | IO[bytes]
    descriptors: Sequence[int]
    folder: str | Path


class Starter(Protocol):
    """`start`, or what does it otherwise."""

    def __call__(self, words: Sequence[str], environment: Mapping[str, str], **options: Unpack[Options]) -> Child: ...


def start(words: Sequence[str], environment: Mapping[str, str], **options: Unpack[Options]) -> subprocess.Popen[bytes]:
    """A program that goes on; whoever starts it ends it. Raises OSError."""
    return subprocess.Popen(  # noqa: S603  (fixed commands, no shell)
        list(words), stdin=options.get("stdin", subprocess.DEVNULL), stdout=options.get("stdout", subprocess.DEVNULL),
        stderr=options.get("stderr", subprocess.DEVNULL), pass_fds=tuple(options.get("descriptors", ())),
        cwd=options.get("folder", "/"), env=dict(environment),
    )  # fmt: skip


def run(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    timeout: float,
    stdin: bytes | IO[bytes] | None = None,
    longest: int = LONGEST,
    descriptors: Sequence[int] = (),
    folder: str | Path = "/",
    heard: Callable[[bytes], None] | None = None,
    starter: Starter = start,
) -> Ended:
    """Run a program to its end, at most `timeout` seconds, and keep up to `longest` bytes of what it says.

    `heard` is given what it has said on standard output so far, about twice a second and whenever it says more; what it
    raises kills the program.

    `stdin`: bytes, an open file, or None for a pipe that stays open as long as this process lives: its end tells the
    program that nobody waits any more. Raises TookTooLongError, OSError.
    """
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as held:
        if stdin is None:
            source, _open = _pipe(held)
        elif isinstance(stdin, bytes):  # a pipe would have to be filled while the program is listened to
            source = held.enter_context(tempfile.TemporaryFile())
            source.write(stdin)
            source.seek(0)
        else:
            source = stdin
        (output, its_output), (errors, its_errors) = _pipe(held), _pipe(held)
        child = starter(
            words, environment, stdin=source, stdout=its_output, stderr=its_errors, descriptors=descriptors,
            folder=folder,
        )  # fmt: skip
        try:
            its_output.close()
            its_errors.close()
            said = _listen(child, words, output, errors, longest, deadline, heard)
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            raise TookTooLongError(words[0]) from None
        except BaseException:
            child.kill()
            raise
        finally:
            status = child.wait()
    return Ended(status, *said)


def _pipe(held: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Its ends, read and written."""
    read, write = os.pipe()
    return held.enter_context(open(read, "rb", buffering=0)), held.enter_context(open(write, "wb", buffering=0))


def _listen(
    child: Child,
    words: Sequence[str],
    output: IO[bytes],
    errors: IO[bytes],
    longest: int,
    deadline: float,
    heard: Callable[[bytes], None] | None,
) -> tuple[bytes, bytes]:
    """What it says until it closes both; more than `longest` bytes are read and dropped. Raises TimeoutExpired."""
    said = {output.fileno(): bytearray(), errors.fileno(): bytearray()}
    with selectors.DefaultSelector() as waiting:
        for descriptor in said:
            waiting.register(descriptor, selectors.EVENT_READ)
        while waiting.get_map():
            child.poll()  # one that will never begin closes what it was to say
            ready = waiting.select(min(max(0.0, deadline - time.monotonic()), HEARD_EVERY))
            if not ready and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(list(words), 0.0)
            for key, _events in ready:
                data = os.read(key.fd, CHUNK)
                if not data:
                    waiting.unregister(key.fd)
                said[key.fd] += data[: longest - len(said[key.fd])]
            if heard is not None:
                heard(bytes(said[output.fileno()]))
    return bytes(said[output.fileno()]), bytes(said[errors.fileno()])
