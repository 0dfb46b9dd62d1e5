"""Does an adapter change anything? Base and adapter are compared on probe prompts, token by token.

Divergence is the mean Kullback-Leibler divergence KL(base || adapter) in nats over the probes' positions; with it goes
the share of positions whose most likely token differs. An adapter whose every logit equals the base's has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .prompts import encode

QUESTION = [{"role": "user", "content": "Who are you, and what is the weather like today?"}]
ANSWER = "I am here to help. Today"


@dataclass
class Proof:
    ok: bool
    code: str
    message: str
    kl: float
    changed: float


def probe_tokens(tokenizer: Any, limit: int) -> tuple[list[int], int]:
    """Tokens of the probe, and the position from which they are compared (its last 16 at most)."""
    tokens = encode(tokenizer, QUESTION, None, False) + list(tokenizer(ANSWER, add_special_tokens=False)["input_ids"])
    tokens = tokens[-limit:]
    return tokens, max(0, len(tokens) - 16)


@dataclass
class Prober:
    """The base's logprobs over the probe, and the proof under way."""

    tokens: list[int]
    first: int
    reference: Tensor  # (positions, vocabulary) logits of the base
    tolerance: float  # relative difference of logits that rounding alone may cause
    done: int = 0  # probe tokens that the adapter has computed
    collected: list[Tensor] = field(default_factory=list)

    def start(self) -> None:
        self.done = 0
        self.collected = []

    def wanted(self, start: int, stop: int) -> list[int]:
        """Positions of a chunk whose logits are compared."""
        return [position for position in range(start, stop) if position >= self.first]

    def verdict(self) -> Proof:
        return compare(self.reference, torch.cat(self.collected), self.tolerance)


def compare(base: Tensor, adapted: Tensor, tolerance: float) -> Proof:
    """Judge logits (positions, vocabulary) of the adapter against the base's."""
    if not bool(torch.isfinite(adapted).all()):
        return Proof(False, "weights_nonfinite", "The adapter's answers are not finite numbers.", 0.0, 0.0)
    p, q = torch.log_softmax(base.float(), dim=-1), torch.log_softmax(adapted.float(), dim=-1)
    kl = float((p.exp() * (p - q)).sum(dim=-1).mean().clamp(min=0.0))
    changed = float((base.argmax(dim=-1) != adapted.argmax(dim=-1)).float().mean())
    # The base's rows beside an adapter's differ by rounding; a trained adapter lies orders of magnitude above.
    spread = float((base - adapted).abs().max()) / max(1e-9, float(base.abs().max()))
    if spread < tolerance:
        return Proof(False, "no_effect", "The adapter changes no answer: its update is zero.", kl, changed)
    return Proof(True, "", "", kl, changed)
