"""Run other programs so that nothing of them is left when this one is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from .console import CLOCK, STARTED


def stop_on_signals() -> None:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that children are ended on the way."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def run_logged(command: Sequence[object], log: Path, on_line: Callable[[str], None] | None = None) -> tuple[int, str]:
    """Run a command, add its output to `log`, and return its exit status and output."""
    output: list[str] = []
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(map(str, command))}\n")
        process = subprocess.Popen(  # noqa: S603
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            for line in process.stdout or ():
                file.write(line)
                output.append(line)
                if on_line is not None:
                    on_line(line)
            return process.wait(), "".join(output)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def replace_process(command: Sequence[str | Path]) -> None:
    """Replace this program: same process id, so that signals reach what runs."""
    sys.stdout.flush()
    sys.stderr.flush()
    words = [str(word) for word in command]
    os.execve(words[0], words, {**os.environ, CLOCK: str(STARTED)})  # noqa: S606
