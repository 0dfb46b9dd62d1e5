"""Patterns from adapter configs, matched by Python's own `re` as PEFT does, but never for long.

A pattern that could backtrack badly is matched in a child process under a CPU limit: `re` cannot be interrupted.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from adapters.failures import Refused

SECONDS = 1
DIRECT_PATTERNS = 512  # so many simple patterns are matched in place
_CHILD = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
patterns, names = json.load(sys.stdin)
compiled = [re.compile(p) for p in patterns]
out = [next((i for i, c in enumerate(compiled) if c.fullmatch(n)), -1) for n in names]
json.dump(out, sys.stdout)
"""


def _unbounded(tree: Iterable[Any]) -> tuple[int, int]:
    """(how many repeats without a small bound, how deeply such repeats are nested) of a parsed pattern."""
    count = depth = 0
    for operator, argument in tree:
        inner_count = inner_depth = 0
        own = 0
        if operator in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            low, high, body = argument
            own = 1 if high > 16 or high - low > 16 else 0
            inner_count, inner_depth = _unbounded(body)
            if high > 1:
                inner_depth += 0 if own else min(inner_count, 1)
        elif operator is sre.SUBPATTERN:
            inner_count, inner_depth = _unbounded(argument[-1])
        elif operator is sre.BRANCH:
            for branch in argument[1]:
                branch_count, branch_depth = _unbounded(branch)
                inner_count, inner_depth = inner_count + branch_count, max(inner_depth, branch_depth)
        elif operator in (sre.ASSERT, sre.ASSERT_NOT):
            inner_count, inner_depth = _unbounded(argument[1])
        elif operator in (sre.GROUPREF, sre.GROUPREF_EXISTS, sre.ATOMIC_GROUP):
            inner_count, inner_depth = 9, 9
        count += own + inner_count
        depth = max(depth, own + inner_depth)
    return count, depth


def is_simple(pattern: str, budget: int = 2) -> bool:
    """True where matching a name of some hundred characters cannot take long: few repeats, none inside another."""
    try:
        count, depth = _unbounded(parser.parse(pattern))
    except (re.error, RecursionError, OverflowError):
        return False
    return count <= budget and depth <= 1


def first_matches(patterns: Sequence[str], names: Sequence[str], field: str) -> list[int]:
    """For each name the index of the first pattern that matches all of it, or -1.

    Raises Refused: config_invalid where a pattern is none, pattern_too_slow where matching takes over a second.
    """
    try:
        if len(patterns) <= DIRECT_PATTERNS and all(is_simple(pattern) for pattern in patterns):
            compiled = [re.compile(pattern) for pattern in patterns]
            return [next((i for i, c in enumerate(compiled) if c.fullmatch(name)), -1) for name in names]
    except (re.error, RecursionError, OverflowError):
        raise Refused("config_invalid", field=field, reason="not a regular expression") from None
    return _in_child(patterns, names, field)


def _in_child(patterns: Sequence[str], names: Sequence[str], field: str) -> list[int]:
    try:
        done = subprocess.run(  # noqa: S603  (our own interpreter, fixed text, patterns as data)
            [sys.executable, "-I", "-S", "-c", _CHILD.replace("{seconds}", str(SECONDS))],
            input=json.dumps([list(patterns), list(names)]),
            capture_output=True,
            text=True,
            timeout=10 * SECONDS,
            check=True,
            env={},
        )
        return [int(index) for index in json.loads(done.stdout)]
    except (subprocess.SubprocessError, ValueError):
        raise Refused("pattern_too_slow", field=field) from None
