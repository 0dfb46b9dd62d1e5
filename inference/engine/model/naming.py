"""Tokens with their probabilities, as the protocol tells them."""

from __future__ import annotations

from collections.abc import Callable

from inference.engine.protocol import PromptLogprob
from inference.engine.text.vocabulary import Vocabulary


class Naming:
    """Names tokens for as long as one step takes, each of them once."""

    def __init__(self, vocabulary: Vocabulary, decode: Callable[[list[int]], str]) -> None:
        self.vocabulary = vocabulary
        self.decode = decode
        self._known: dict[int, tuple[str, list[int] | None]] = {}

    def item(
        self, token: int, logprob: float | None, top: list[tuple[int, float]], first: bool = False
    ) -> PromptLogprob:
        """`top`: (token, its probability), the likeliest first. `first`: a text begins with it. Its offset is 0."""
        name, raw = self._named(token, first)
        others = [(text, other, value, its) for other, value in top for text, its in [self._named(other, first)]]
        return {"token": name, "token_id": token, "logprob": logprob, "bytes": raw, "offset": 0, "top": others}

    def opens(self, tokens: list[int], at: int) -> bool:
        """Whether nothing before token `at` stands for text."""
        return at < 4 and all(self._named(token, False)[1] is None for token in tokens[:at])

    def _named(self, token: int, first: bool) -> tuple[str, list[int] | None]:
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self.vocabulary.alone(token)
        text, raw = found
        if first and raw and text.startswith(" ") and not self.decode([token]).startswith(" "):
            return text[1:], raw[1:]  # SentencePiece begins no text with a space
        return text, raw
