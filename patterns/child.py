"""Runs as `python -I -S child.py SECONDS` with a question as JSON on standard input; see `confined.py`.

Confined before it reads anything: the kernel ends it when its processor time is used up.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys

INVALID = 3  # exit status: one of the patterns is no regular expression
MEMORY = 256 * 2**20


def confine(seconds: int) -> None:
    """Take from this process what it does not need."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit; there the processor time bounds it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def main(seconds: int) -> int:
    confine(seconds)
    method, patterns, names = json.load(sys.stdin)
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except (re.error, ValueError, OverflowError, RecursionError):
        return INVALID
    matchers = [getattr(pattern, method) for pattern in compiled]
    found = []
    for name in names:
        answer = next(((index, match) for index, matcher in enumerate(matchers) if (match := matcher(name))), None)
        found.append((-1, None) if answer is None else (answer[0], answer[1].groupdict().get("idx")))
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
