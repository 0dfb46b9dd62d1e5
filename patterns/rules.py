"""The three ways in which PEFT reads a pattern of an adapter's config, for many module names at once.

As of PEFT 0.21: `match_target_against_key`, `get_pattern_key` and `check_target_module_exists`.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import confined, linear
from .errors import InvalidPatternError, SlowPatternError, UntranslatableError
from .linear import Budget
from .syntax import parse, translate

MAX_LENGTH = 2000  # characters of one pattern
MAX_TOTAL = 2**18  # characters of all patterns of one table
MAX_NAME = 2048  # characters
ANY_LAYER = r".*?\.[^.]*\.(?P<idx>\d+)\."


def whole(pattern: str, names: Sequence[str]) -> list[bool]:
    """Which names the pattern matches from end to end. Raises InvalidPatternError, SlowPatternError."""
    _bound([pattern], names)
    try:
        budget = Budget()
        regexp = linear.compiled(translate(parse(pattern)))
        found = []
        for name in linear.encode(names):
            budget.check()
            found.append(regexp.fullmatch(name) is not None)
        return found
    except UntranslatableError:
        return [index >= 0 for index, _ in confined.first_matches("fullmatch", [pattern], names)]
    finally:
        linear.forget()


def endings(patterns: Sequence[str], names: Sequence[str]) -> list[int]:
    """For each name the index of the first pattern that matches it at its end, after a dot or as a whole; or -1.

    Raises InvalidPatternError, SlowPatternError.
    """
    _bound(patterns, names)
    if not patterns:
        return [-1] * len(names)
    try:
        budget = Budget()
        sources = []
        for pattern in patterns:
            budget.check()
            sources.append(translate(parse(pattern)))
        tree = linear.Endings(sources, budget)
        return [tree.first(name) for name in linear.encode(names)]
    except (UntranslatableError, InvalidPatternError):
        # PEFT puts the pattern between others; `a)|(b` is a pattern only there.
        put = [rf"(.*\.)?({pattern})$" for pattern in patterns]
        return [index for index, _ in confined.first_matches("match", put, names)]
    finally:
        linear.forget()


def layers(patterns: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """For each name the number of its layer: the first number behind one of the patterns, or behind anything.

    Raises InvalidPatternError, SlowPatternError.
    """
    _bound(patterns, names)
    put = [rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\." for pattern in patterns] or [ANY_LAYER]
    try:
        budget = Budget()
        regexps = []
        for pattern in put:
            budget.check()
            regexps.append(linear.compiled(translate(parse(pattern), group="idx")))
        found: list[int | None] = []
        for name in linear.encode(names):
            number = None
            for regexp in regexps:
                budget.check()
                match = regexp.match(name)
                if match is not None:  # a pattern that holds `|` may match without a number; PEFT stops there too
                    number = match.group(1) if regexp.groups else None
                    break
            found.append(None if number is None else int(number))
        return found
    except UntranslatableError:
        return [None if number is None else int(number) for _, number in confined.first_matches("match", put, names)]
    finally:
        linear.forget()


def _bound(patterns: Sequence[str], names: Sequence[str]) -> None:
    """What is beyond these bounds is not even parsed. Raises SlowPatternError."""
    lengths = [len(pattern) for pattern in patterns]
    if max(lengths, default=0) > MAX_LENGTH or sum(lengths) > MAX_TOTAL:
        raise SlowPatternError
    if max(map(len, names), default=0) > MAX_NAME:
        raise SlowPatternError
