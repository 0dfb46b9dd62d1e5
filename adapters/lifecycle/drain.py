"""Waiting until nobody uses a stored copy any more, before its files are deleted."""

from __future__ import annotations

import time
from collections.abc import Callable

Hook = Callable[[str, float], bool]

TIMEOUT = 10.0  # seconds that a deletion waits altogether
_hooks: list[Hook] = []


def register(hook: Hook) -> None:
    """Add `hook(digest, timeout) -> bool`: True once the copy is idle, False where it is still in use by then."""
    if hook not in _hooks:
        _hooks.append(hook)


def unregister(hook: Hook) -> None:
    if hook in _hooks:
        _hooks.remove(hook)


def drain(digest: str, timeout: float = TIMEOUT) -> bool:
    """Ask every hook in turn, within `timeout` seconds altogether. True where all say that the copy is idle."""
    deadline = time.monotonic() + timeout
    return all(hook(digest, max(0.0, deadline - time.monotonic())) for hook in list(_hooks))
