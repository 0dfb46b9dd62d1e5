"""Patterns that people write for texts of any characters: RE2's own syntax, found anywhere, in linear time.

Unlike the patterns of adapter configs these have no meaning elsewhere that must be kept: what RE2 cannot say (a look
ahead, a reference back) is refused, in RE2's words.
"""

from __future__ import annotations

import functools
from typing import Any

import re2

from .errors import InvalidPatternError, SlowPatternError

MAX_LENGTH = 500  # characters of a pattern
MAX_TEXT = 2**17  # characters of a text
MAX_MEMORY = 2**18  # bytes of one compiled pattern: at worst about half a second over 20,000 characters

OPTIONS = re2.Options()
OPTIONS.max_mem = MAX_MEMORY
OPTIONS.log_errors = False


@functools.lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    if len(pattern) > MAX_LENGTH:
        raise SlowPatternError
    try:
        return re2.compile(pattern, OPTIONS)
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        raise InvalidPatternError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason) from None


def check_search(pattern: str) -> None:
    """Raises InvalidPatternError, with RE2's reason, and SlowPatternError where it is too long."""
    _compiled(pattern)


def search(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text. Raises as `check_search` does, and SlowPatternError for a long text."""
    if len(text) > MAX_TEXT:
        raise SlowPatternError
    return _compiled(pattern).search(text) is not None
