"""Matching by Python's `re` in a child process with limits on its processor time and memory.

An outcome is remembered by what was asked: the checkpoints of a run share their config, and what was too slow once is
not tried again by every one of them. Two children never run at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import launching

from .child import INVALID
from .errors import InvalidPatternError, SlowPatternError

logger = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("child.py")
SECONDS = 1  # of processor time
WALL_SECONDS = 60.0  # on a busy machine a second of processor time may take long
LONGEST = 2**26  # bytes of an answer
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
        words = [sys.executable, "-I", "-S", str(PROGRAM), str(SECONDS)]
        done = launching.run(words, {}, stdin=request, timeout=WALL_SECONDS, longest=LONGEST)
    except launching.TookTooLongError:
        raise SlowPatternError from None  # not remembered: perhaps the machine was too busy
    if done.status == 0:
        return done.output
    if done.status == INVALID:
        return InvalidPatternError
    if done.status > 0:  # not killed by its limit of time
        reason = done.errors[-300:].decode("utf-8", "replace")
        logger.warning("matching a pattern ended with status %s: %s", done.status, reason)
    return SlowPatternError
