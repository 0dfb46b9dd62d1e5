"""A tokenizer on the engine's thread: its tokens as text, one by one and together, and grammars over them.

Prompts become tokens on another thread, by another tokenizer. A base has one, and an adapter whose tokens are others.
"""

from __future__ import annotations

from typing import Any

from inference.engine.text.vocabulary import Vocabulary

from .grammar import Constraints


class TokenText:
    def __init__(self, tokenizer: Any, logits: int) -> None:
        """`logits`: how many a position has."""
        self.tokenizer = tokenizer
        self.logits = logits
        self.vocabulary = Vocabulary(tokenizer)
        self.constraints = Constraints(tokenizer, logits)

    def decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def name(self, token: Any) -> str:
        """A token as the tokenizer writes it; "" for what is none."""
        return str(self.tokenizer.convert_ids_to_tokens(token) or "") if type(token) is int else ""
