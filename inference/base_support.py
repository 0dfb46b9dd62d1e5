"""Whether the engine can serve a base model: its look at a folder, in a child process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from django.conf import settings

from inference.backends.process import OFFLINE, PRIVATE

TIMEOUT = 120.0  # seconds; it takes about four, of which torch's import is most


def refusal_reason(folder: str) -> str:
    """Why the engine cannot serve the base in `folder`; "" where nothing says so.

    Raises OSError where the child gave no verdict, TimeoutError.
    """
    environment = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    environment |= dict.fromkeys(OFFLINE, "1") | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "inference.engine.model.base_probe", folder]
    child = subprocess.Popen(  # noqa: S603  (our own interpreter and module; the folder is a word, not a shell's)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd=settings.BASE_DIR, env=environment,
    )  # fmt: skip
    # Its standard input stays open as long as we live: its end tells the child that nobody waits any more.
    assert child.stdin is not None and child.stdout is not None  # noqa: S101  (for the type checker)
    with child:
        try:
            child.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            raise TimeoutError("the look at its structure took too long") from None
        answer = child.stdout.read(65536)
    try:
        verdict = json.loads(answer)
        return str(verdict.get("reason") or "unknown") if verdict["supported"] is False else ""
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OSError(f"the child ended with status {child.returncode}") from None
