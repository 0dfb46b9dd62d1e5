"""Starting programs, and running them to their end within bounds."""

from __future__ import annotations

import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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


def start(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    descriptors: Sequence[int] = (),
    folder: str | Path = "/",
) -> subprocess.Popen[bytes]:
    """A program that goes on; whoever starts it ends it. `descriptors` stay open in it. Raises OSError."""
    return subprocess.Popen(  # noqa: S603  (fixed commands, no shell)
        list(words), stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=tuple(descriptors), cwd=folder,
        env=dict(environment),
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
) -> Ended:
    """Run a program to its end, at most `timeout` seconds, and keep up to `longest` bytes of what it says.

    `heard` is given what it has said on standard output so far, about twice a second and whenever it says more; what it
    raises kills the program.

    `stdin`: bytes, an open file, or None for a pipe that stays open as long as this process lives: its end tells the
    program that nobody waits any more. Raises TookTooLongError, OSError.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryFile() as given:  # a pipe would have to be filled while the program is listened to
        if isinstance(stdin, bytes):
            given.write(stdin)
            given.seek(0)
        source: int | IO[bytes] = given if isinstance(stdin, bytes) else subprocess.PIPE if stdin is None else stdin
        child = start(
            words, environment, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            descriptors=descriptors, folder=folder,
        )  # fmt: skip
        with child:
            try:
                output, errors = _listen(child, longest, deadline, heard)
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                raise TookTooLongError(words[0]) from None
            except BaseException:
                child.kill()
                raise
        return Ended(child.returncode, output, errors)


def _listen(
    child: subprocess.Popen[bytes], longest: int, deadline: float, heard: Callable[[bytes], None] | None
) -> tuple[bytes, bytes]:
    """What it says until it closes both; more than `longest` bytes are read and dropped. Raises TimeoutExpired."""
    assert child.stdout is not None and child.stderr is not None  # noqa: S101  (for the type checker)
    said = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as waiting:
        for descriptor in said:
            waiting.register(descriptor, selectors.EVENT_READ)
        while waiting.get_map():
            left = max(0.0, deadline - time.monotonic())
            ready = waiting.select(left if heard is None else min(left, HEARD_EVERY))
            if not ready and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(child.args, 0.0)
            for key, _events in ready:
                data = os.read(key.fd, CHUNK)
                if not data:
                    waiting.unregister(key.fd)
                said[key.fd] += data[: longest - len(said[key.fd])]
            if heard is not None:
                heard(bytes(said[child.stdout.fileno()]))
    output, errors = said.values()
    return bytes(output), bytes(errors)
