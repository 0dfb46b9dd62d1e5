"""Requests that were refused before a model was asked, counted by the error's code: every door tells them here.

A request that a model was asked is recorded with its model, however it ends; the error that its door then tells is
marked (`settle`), and not counted a second time.
"""

from __future__ import annotations

import re
import time

from common.api import ApiError

from .entries import Refusal
from .recorder import recorder

CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")  # as ours are; whatever else comes is one kind


def settle(error: BaseException) -> None:
    """What this exception tells of has been counted."""
    error._counted = True  # type: ignore[attr-defined]


def settled(error: BaseException | None) -> bool:
    return error is not None and (getattr(error, "_counted", False) or settled(error.__cause__))


def count(error: BaseException, user_id: int = 0, code: str = "") -> None:
    """A door tells a client of this exception; `code` where it has none of its own. Safe to repeat."""
    if settled(error):
        return
    settle(error)
    note(error.code if isinstance(error, ApiError) else code, user_id)


def note(code: str, user_id: int = 0) -> None:
    """`user_id`: whose request was refused, 0 where nobody knows."""
    recorder.post(Refusal(time.time(), code if CODE.fullmatch(code) else "other", user_id))
