from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.text.detokenizer import REPLACEMENT, Detokenizer, overlap


def bytes_decode(tokens: list[int]) -> str:
    """One byte a token: every character beyond ASCII takes several tokens."""
    return bytes(tokens).decode("utf-8", errors="replace")


def run(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    stream = Detokenizer(bytes_decode, stop)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.matched is not None:
            break
    pieces.append(stream.finish())
    return pieces, stream


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_pieces_joined_are_the_text_and_never_half_a_character(text: str) -> None:
    pieces, _ = run(text)
    assert "".join(pieces) == text
    assert REPLACEMENT in text or not any(REPLACEMENT in piece for piece in pieces)


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_text_ends_before_the_first_stop_string_wherever_tokens_split(text: str, stops: list[str]) -> None:
    pieces, stream = run(text, tuple(stops))
    ends = [text.find(s) for s in stops if s in text]
    # The answer ends as soon as any stop string is complete, so the earliest end decides, not the earliest start.
    complete = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    if not ends:
        assert "".join(pieces) == text
        assert stream.matched is None
        return
    first_end = min(complete)[0]
    expected = min(start for end, start in complete if end == first_end)
    assert "".join(pieces) == text[:expected]
    assert stream.matched in stops


def test_text_that_may_begin_a_stop_string_is_held_back_and_then_released() -> None:
    stream = Detokenizer(bytes_decode, ("END",))
    assert [stream.push(b) for b in b"xEN"] == ["x", "", ""]
    assert stream.push(ord("O")) == "ENO"


def test_bytes_that_never_become_a_character_are_shown_at_last() -> None:
    stream = Detokenizer(bytes_decode)
    assert "".join(stream.push(0xFF) for _ in range(8)) + stream.finish() == REPLACEMENT * 8


@pytest.mark.parametrize(
    ("text", "stop", "size"), [("abc", "cd", 1), ("abc", "bcd", 2), ("abc", "abc", 0), ("", "x", 0)]
)
def test_overlap(text: str, stop: str, size: int) -> None:
    assert overlap(text, stop) == size
