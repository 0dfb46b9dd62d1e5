"""Two lists of tokens of one conversation: as it is served here, and as training implies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .tokens import Written

AROUND = 8  # tokens that are shown on each side of a difference
LONGEST_PIECE = 80  # characters of a token that is shown


@dataclass(frozen=True)
class Served:
    """Question and reference as the engine takes them; `first`: the number of the reference's first token."""

    ids: list[int]
    texts: list[str]
    first: int


def difference(served: Served, trained: Written) -> dict[str, Any] | None:
    """Where what is served is not the beginning of what was trained; None for nowhere.

    {"at": number of the token, "before": text, "served", "trained": {"id", "text"} or None at an end,
    "served_after", "trained_after": texts}.
    """
    pairs = zip(served.ids, trained.ids, strict=False)
    at = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if at is None:
        if len(served.ids) <= len(trained.ids):
            return None
        at = len(trained.ids)
    pieces = [trained.piece(place) for place in range(min(len(trained.ids), at + AROUND + 1))]
    return {
        "at": at,
        "before": _joined(pieces[max(0, at - AROUND) : at]),
        "served": _token(served.ids, served.texts, at),
        "trained": _token(trained.ids, pieces, at),
        "served_after": _joined(served.texts[at + 1 : at + 1 + AROUND]),
        "trained_after": _joined(pieces[at + 1 :]),
    }


def _token(ids: Sequence[int], texts: Sequence[str], at: int) -> dict[str, Any] | None:
    return {"id": ids[at], "text": texts[at][:LONGEST_PIECE]} if at < len(ids) else None


def _joined(texts: Sequence[str]) -> str:
    return "".join(text[:LONGEST_PIECE] for text in texts)


def place_of(answer: Sequence[int], trained: Sequence[int]) -> int | None:
    """Where the answer's tokens last stand in what was trained; None for nowhere."""
    size = len(answer)
    for start in range(len(trained) - size, -1, -1):
        if trained[start] == answer[0] and list(trained[start : start + size]) == list(answer):
            return start
    return None


def ending(served: Served, trained: Written, reference: str) -> int | None:
    """The token that follows the answer in training: the end of its turn. None where there is none.

    Where the answer has other tokens there, it is found by its text.
    """
    answer = served.ids[served.first :]
    start = place_of(answer, trained.ids)
    if start is not None:
        return trained.ids[start + len(answer)] if start + len(answer) < len(trained.ids) else None
    place = trained.text.rfind(reference.strip())
    if place < 0:
        return None
    until = place + len(reference.strip())
    return next((one for one, (begin, _end) in zip(trained.ids, trained.offsets, strict=True) if begin >= until), None)
