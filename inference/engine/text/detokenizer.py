"""From tokens to text that can be shown: whole characters, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Callable

REPLACEMENT = "\ufffd"  # what a tokenizer shows for the bytes of an unfinished character
LONGEST_CHARACTER = 8  # tokens; a character whose bytes never complete is shown as it is after so many


class Detokenizer:
    """Incremental decoding of one answer.

    A tokenizer may decode a token differently after others (spaces, bytes of one character), so each step decodes
    a short window twice, without and with the new tokens, and the difference is new text. Stop strings are found
    across token borders: text that may be the beginning of one is held back until it is decided.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], stop: tuple[str, ...] = (), include_stop: bool = False
    ) -> None:
        """`include_stop`: the stop string that ends the answer is shown."""
        self.decode = decode
        self.stop = tuple(s for s in stop if s)
        self.include_stop = include_stop
        self.tokens: list[int] = []
        self.start = 0  # window over `tokens`: [start:read] is context that has been shown
        self.read = 0
        self.held = ""  # decoded, but perhaps the beginning of a stop string
        self.matched: str | None = None

    def push(self, token: int) -> str:
        """Text that this token makes certain; "" where nothing is certain yet. Sets `matched` at a stop string."""
        self.tokens.append(token)
        return self._release(self._decode_new(final=False))

    def finish(self) -> str:
        """What was held back, at the end of an answer that no stop string ended."""
        text = "" if self.matched is not None else self._release(self._decode_new(final=True)) + self.held
        self.held = ""
        return text

    def _decode_new(self, final: bool) -> str:
        before = self.decode(self.tokens[self.start : self.read])
        after = self.decode(self.tokens[self.start :])
        unfinished = after.endswith(REPLACEMENT) and len(self.tokens) - self.read < LONGEST_CHARACTER
        if (unfinished and not final) or len(after) <= len(before):
            return ""
        self.start, self.read = self.read, len(self.tokens)
        return after[len(before) :]

    def _release(self, new: str) -> str:
        if not self.stop or not new:
            return new
        text = self.held + new
        found = [(text.find(s), s) for s in self.stop if s in text]
        if found:
            at, self.matched = min(found, key=lambda hit: (hit[0], -len(hit[1])))
            self.held = ""
            return text[: at + len(self.matched) * self.include_stop]
        keep = max((overlap(text, s) for s in self.stop), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
