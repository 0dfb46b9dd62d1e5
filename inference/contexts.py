"""How many tokens a fleet takes for a base model, as its addresses said last; a page has no time to ask them."""

from __future__ import annotations

from collections.abc import Callable

_said: dict[str, tuple[Callable[[str], bool], int]] = {}  # by address: which bases it serves, tokens


def note(address: str, serves: Callable[[str], bool], context: int) -> None:
    """`context`: 0 where the address does not say. From any thread."""
    _said[address] = serves, context


def forget(address: str) -> None:
    _said.pop(address, None)


def reported(base: str) -> int:
    """Tokens of prompt and answer together for the base model of this name, the fewest where several addresses serve
    it; 0 where nothing is known."""
    found = [context for serves, context in list(_said.values()) if context and serves(base)]
    return min(found, default=0)
