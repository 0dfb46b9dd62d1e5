"""Matching by Python's `re` in a child process with limits on its processor time and memory.

An outcome is remembered by what was asked: the checkpoints of a run share their config, and what was too slow once is
not tried again by every one of them. Two children never run at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from .child import INVALID
from .errors import InvalidPatternError, SlowPatternError

logger = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("child.py")
SECONDS = 1  # of processor time
WALL_SECONDS = 60.0  # on a busy machine a second of processor time may take long
REMEMBERED = 64

_lock = threading.Lock()
_outcomes: OrderedDict[bytes, bytes | type[Exception]] = OrderedDict()


def first_matches(method: str, patterns: Sequence[str], names: Sequence[str]) -> list[tuple[int, str | None]]:
    """For each name the index of the first pattern whose `method` (fullmatch, match) finds something, and what its
    group `idx` holds; (-1, None) where none does.

    Raises InvalidPatternError, SlowPatternError, and OSError where no process can be started.
    """
    request = json.dumps([method, list(patterns), list(names)]).encode("ascii")
    key = hashlib.sha256(request).digest()
    with _lock:
        outcome = _outcomes.get(key)
        if outcome is None:
            outcome = _outcomes[key] = _ask(request)
            if len(_outcomes) > REMEMBERED:
                _outcomes.popitem(last=False)
    if isinstance(outcome, bytes):
        return [(int(index), number) for index, number in json.loads(outcome)]
    raise outcome


def _ask(request: bytes) -> bytes | type[Exception]:
    try:
        done = subprocess.run(  # noqa: S603  (our own interpreter and our own file; patterns and names come as stdin)
            [sys.executable, "-I", "-S", str(PROGRAM), str(SECONDS)],
            input=request,
            capture_output=True,
            timeout=WALL_SECONDS,
            check=False,
            env={},
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        raise SlowPatternError from None  # not remembered: perhaps the machine was too busy
    if done.returncode == 0:
        return done.stdout
    if done.returncode == INVALID:
        return InvalidPatternError
    if done.returncode > 0:  # not killed by its limit of time
        reason = done.stderr[-300:].decode("utf-8", "replace")
        logger.warning("matching a pattern ended with status %s: %s", done.returncode, reason)
    return SlowPatternError
