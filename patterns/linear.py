"""Matching by RE2: time grows with pattern times name, no faster, and other threads run meanwhile.

RE2 lets go of the interpreter's lock while it matches. While it compiles it does not; its memory limit keeps that to a
few milliseconds. A single match is bounded by the same limit and the length of a name, many of them by `Budget`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import re2

from .errors import SlowPatternError, UntranslatableError

SECONDS = 2.0  # of this thread's processor time, for all patterns and names of one question
MAX_MEMORY = 2**20  # bytes of one compiled pattern and what it remembers while it matches
UNION, UNION_LENGTH = 64, 16384  # patterns that are compiled as one, and their characters: about a millisecond
PARTS = 8

OPTIONS = re2.Options()
OPTIONS.max_mem = MAX_MEMORY
OPTIONS.encoding = re2.Options.Encoding.LATIN1  # one byte a character: smaller programs than UTF-8's
OPTIONS.log_errors = False


class Budget:
    """Processor time that one question may take."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self.clock = clock
        self.end = clock() + SECONDS

    def check(self) -> None:
        """Raises SlowPatternError where it is used up."""
        if self.clock() > self.end:
            raise SlowPatternError


def encode(names: Sequence[str]) -> list[bytes]:
    """Names for which translated patterns hold. Raises UntranslatableError where one is of another kind."""
    if not all(name.isascii() and "\n" not in name for name in names):
        raise UntranslatableError
    return [name.encode("ascii") for name in names]


def compiled(source: str) -> Any:
    """Raises UntranslatableError where RE2 has a limit (a thousand repeats) or not enough memory."""
    try:
        return re2.compile(source.encode("ascii"), OPTIONS)
    except re2.error:
        raise UntranslatableError from None


def forget() -> None:
    """Drop what `re2` keeps of the patterns that it compiled last, a megabyte each at worst."""
    re2.purge()


class Endings:
    """Which of many patterns, in their order, is the first that matches the end of a name, after a dot or as a whole.

    A tree: a node of not too many patterns asks for all of them at once, and only where one matches it asks its parts.
    So a table with an entry for each module of a model costs little more than one with a few entries.
    """

    def __init__(self, sources: Sequence[str], budget: Budget) -> None:
        self.sources = sources
        self.budget = budget

    @cached_property
    def regexp(self) -> Any:
        """All patterns as one; None where that would be too large. Raises UntranslatableError where one alone is."""
        self.budget.check()
        alone = len(self.sources) == 1
        if not alone and (len(self.sources) > UNION or sum(map(len, self.sources)) > UNION_LENGTH):
            return None
        alternatives = "|".join(f"(?:{source})" for source in self.sources)
        try:
            return compiled(rf"(?:[^\n]*\x2e)?(?:{alternatives})\z")
        except UntranslatableError:
            if alone:
                raise
            return None

    @cached_property
    def parts(self) -> list[tuple[int, Endings]]:
        """(index of its first pattern, node) for each part."""
        size = -(-len(self.sources) // PARTS)
        return [
            (start, Endings(self.sources[start : start + size], self.budget))
            for start in range(0, len(self.sources), size)
        ]

    def first(self, name: bytes) -> int:
        """Its index, or -1. Raises SlowPatternError, UntranslatableError."""
        self.budget.check()
        if self.regexp is not None and not self.regexp.match(name):
            return -1
        if len(self.sources) == 1:
            return 0
        for start, part in self.parts:
            if (index := part.first(name)) >= 0:
                return start + index
        return -1
