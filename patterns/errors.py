"""Why a pattern is not matched."""

from __future__ import annotations


class InvalidPatternError(Exception):
    """It is no regular expression of Python's."""


class SlowPatternError(Exception):
    """It is too long, or matching it takes more time or memory than a pattern may cost."""


class UntranslatableError(Exception):
    """RE2 cannot say the same, or cannot say it in the memory that it may use; the child process decides."""
