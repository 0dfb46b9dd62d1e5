r"""Python's syntax of regular expressions, parsed by Python and written anew for RE2.

The two engines share most of their syntax, but not all of its meaning. `\Z`, `$`, `\s`, `\d`, `[[:alpha:]]` differ;
`\C`, `\pN`, `\Q`, `\z` and `(?U)` mean something in RE2 alone; releases of Python differ among themselves. So no
pattern is handed over as it was written: Python's parse tree says what it means, and from it a pattern is written that
uses only groups, alternatives, repeats, anchors and classes of spelled-out characters. A node that is not listed here,
and a flag that changes meaning, makes the pattern untranslatable.

What is written holds for names of ASCII characters without line breaks (`linear.py` sees to that): on those, classes of
Unicode are classes of ASCII, and `$` is the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from .errors import InvalidPatternError, UntranslatableError

ASCII = frozenset(range(128))
CATEGORIES = {
    sre.CATEGORY_DIGIT: r"\d",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S",
    sre.CATEGORY_WORD: r"\w",
    sre.CATEGORY_NOT_WORD: r"\W",
}
# Python's own classes, asked character by character: `\s` holds four more than RE2's.
MEMBERS = {
    category: frozenset(code for code in ASCII if re.fullmatch(text, chr(code)))
    for category, text in CATEGORIES.items()
}
ANCHORS = {
    sre.AT_BEGINNING: r"\A",
    sre.AT_BEGINNING_STRING: r"\A",
    sre.AT_END: r"\z",
    sre.AT_END_STRING: r"\z",
    sre.AT_BOUNDARY: r"\b",
}  # not `\B`: whether it matches an empty text depends on Python's release
KEPT_FLAGS = re.UNICODE | re.VERBOSE  # the parser has dealt with VERBOSE
NOTHING = r"[^\x00-\xff]"


def parse(pattern: str) -> Any:
    """Python's parse tree. Takes milliseconds for any text of a few thousand characters, unlike `re.compile`.

    Raises InvalidPatternError, and UntranslatableError where it is nested too deeply to be parsed here.
    """
    try:
        return parser.parse(pattern)
    except RecursionError:
        raise UntranslatableError from None
    except (re.error, ValueError, OverflowError):
        raise InvalidPatternError from None


def check(pattern: str) -> None:
    """Raises InvalidPatternError where the text is no regular expression as far as parsing shows."""
    try:
        parse(pattern)
    except UntranslatableError:
        pass  # the child process says


def translate(tree: Any, group: str | None = None) -> str:
    """The same pattern in RE2's syntax; of its groups only the one named `group` stays a capturing one.

    Raises UntranslatableError.
    """
    if tree.state.flags & ~KEPT_FLAGS:
        raise UntranslatableError
    try:
        return _sequence(tree, tree.state.groupdict.get(group))
    except RecursionError:
        raise UntranslatableError from None


def _sequence(nodes: Iterable[Any], kept: int | None) -> str:
    return "".join(_node(operator, argument, kept) for operator, argument in nodes)


def _node(operator: Any, argument: Any, kept: int | None) -> str:
    if operator is sre.LITERAL:
        return _character(argument) if argument < 128 else NOTHING
    if operator is sre.NOT_LITERAL:
        return _class(ASCII - {argument})
    if operator is sre.ANY:
        return _class(ASCII - {ord("\n")})
    if operator is sre.IN:
        return _class(_members(argument))
    if operator is sre.AT and argument in ANCHORS:
        return ANCHORS[argument]
    if operator is sre.BRANCH:
        return "(?:" + "|".join(_sequence(branch, kept) for branch in argument[1]) + ")"
    if operator is sre.SUBPATTERN:
        number, add_flags, del_flags, body = argument
        if not add_flags and not del_flags:
            return ("(" if number is not None and number == kept else "(?:") + _sequence(body, kept) + ")"
    if operator in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        low, high, body = argument
        # Engines differ in what a round of a loop that matched nothing means, for captures at least.
        if high <= 1 or body.getwidth()[0] > 0:
            lazy = "?" if operator is sre.MIN_REPEAT else ""
            return f"(?:{_sequence(body, kept)}){_times(low, high)}{lazy}"
    raise UntranslatableError


def _times(low: int, high: int) -> str:
    if high == sre.MAXREPEAT:
        return {0: "*", 1: "+"}.get(low, f"{{{low},}}")
    return "?" if (low, high) == (0, 1) else f"{{{low},{high}}}"


def _members(items: Iterable[Any]) -> frozenset[int]:
    """The ASCII characters of a class."""
    found: set[int] = set()
    negated = False
    for operator, argument in items:
        if operator is sre.NEGATE:
            negated = True
        elif operator is sre.LITERAL:
            found.add(argument)
        elif operator is sre.RANGE:
            found.update(range(argument[0], min(argument[1] + 1, 128)))
        elif operator is sre.CATEGORY and argument in MEMBERS:
            found |= MEMBERS[argument]
        else:
            raise UntranslatableError
    return ASCII - found if negated else ASCII & found


@lru_cache(maxsize=512)
def _class(members: frozenset[int]) -> str:
    """A set of ASCII characters, spelled out as ranges."""
    if not members:
        return NOTHING
    ranges: list[list[int]] = []
    for code in sorted(members):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(f"{_character(low)}-{_character(high)}" for low, high in ranges) + "]"


@lru_cache(maxsize=128)
def _character(code: int) -> str:
    character = chr(code)
    return character if character.isalnum() or character == "_" else f"\\x{code:02x}"
