"""Answers that must be JSON: token masks by llguidance, which knows JSON schema and every tokenizer of Transformers."""

from __future__ import annotations

import json
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from inference.engine.errors import EngineError
from inference.engine.params import SamplingParams

ANY_OBJECT = {"type": "object"}


class Constraints:
    """Grammars over one base's tokenizer; its table is built on first use."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.table: LLTokenizer | None = None

    def grammar(self, params: SamplingParams) -> Grammar | None:
        """The constraint that a request asks for. Raises EngineError `invalid_parameter` for a schema that has none."""
        schema = params.json_schema if params.json_schema is not None else ANY_OBJECT if params.json_object else None
        if schema is None:
            return None
        try:
            if self.table is None:
                # A tokenizer may know tokens that the model has no logits for; the mask is cut to the logits.
                known = 1 + max(self.tokenizer.get_vocab().values(), default=0)
                self.table = from_tokenizer(self.tokenizer, n_vocab=max(self.vocabulary, known))
            source = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
            matcher = LLMatcher(self.table, source, log_level=0)
        except (ValueError, RecursionError) as error:
            raise self.refuse(str(error)) from error
        if matcher.is_error():
            raise self.refuse(matcher.get_error())
        return Grammar(matcher)

    @staticmethod
    def refuse(reason: str) -> EngineError:
        line = reason.strip().split("\n", 1)[0]
        return EngineError(
            "invalid_parameter", f"This JSON schema cannot be used: {line}", "response_format", reason=line
        )


class Grammar:
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher

    def mask(self, row: Tensor) -> Tensor:
        """Logits (vocabulary,) with everything that the grammar forbids at minus infinity, in place."""
        packed = torch.frombuffer(bytearray(self.matcher.compute_bitmask()), dtype=torch.uint8)
        bits = packed[:, None].bitwise_right_shift(torch.arange(8, dtype=torch.uint8)).bitwise_and(1)
        allowed = bits.flatten()[: row.shape[0]].bool()
        row[: allowed.shape[0]].masked_fill_(~allowed.to(row.device), float("-inf"))
        row[allowed.shape[0] :] = float("-inf")
        return row

    def take(self, token: int) -> bool:
        """Move on by a token; true where the grammar is complete and allows nothing more."""
        return not self.matcher.consume_token(token) or self.matcher.is_stopped()
