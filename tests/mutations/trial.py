"""A copy of the project in which one protection at a time is taken away, and tests are run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .catalogue import Mutation

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "pytest", "-n0", "-q", "-x", "-p", "no:cacheprovider"]
FAILED = re.compile(r"^\d+ failed\b", re.MULTILINE)  # (the exit status of 1 says also that settings cannot be imported)


HANGING = 45.0  # seconds that a test which never ends without its protection is given


class Outcome(Enum):
    BITTEN = "bitten"
    SURVIVED = "SURVIVED"
    STALE = "TEXT NOT FOUND"
    BROKEN = "TESTS DID NOT RUN"  # an import fails, a test has another name, or they ran into the time limit
    LEFT = "not tried"


@dataclass(frozen=True)
class Result:
    mutation: Mutation
    outcome: Outcome
    seconds: float = 0.0
    tail: str = ""  # the last lines of what the tests said


class Copy:
    """The project's files as they are now, but for those that git ignores, in a folder of their own."""

    def __init__(self, folder: Path, project: Path = PROJECT) -> None:
        self.folder = folder
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=project, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (project / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(project / name, folder / name)

    def run(self, tests: Iterable[str], seconds: float) -> tuple[int | None, str]:
        """pytest's exit status and the end of its output; None where it took too long, and it is ended."""
        # Bytecode is told by size and second of its source, which a mutation may leave as they are.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        output = self.folder.with_suffix(".txt")
        with open(output, "wb") as file:
            process = subprocess.Popen(
                [*COMMAND, *tests],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(max(1.0, seconds))
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _end(process)
        return status, "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])

    def attempt(self, mutation: Mutation, seconds: float) -> Result:
        """Take the protection away, run its tests for `seconds` at most, and put it back."""
        path = self.folder / mutation.file
        original = path.read_text(encoding="utf-8")
        started = time.monotonic()
        seconds = min(seconds, HANGING) if mutation.hangs else seconds
        try:
            path.write_text(mutation.applied(original), encoding="utf-8")
            status, tail = self.run(mutation.tests, seconds)
        except ValueError as error:
            return Result(mutation, Outcome.STALE, tail=str(error))
        finally:
            path.write_text(original, encoding="utf-8")
        bitten = FAILED.search(tail) if status else status is None and mutation.hangs
        outcome = Outcome.BITTEN if bitten else Outcome.SURVIVED if status == 0 else Outcome.BROKEN
        return Result(mutation, outcome, time.monotonic() - started, tail)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the tests and whatever they have started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
