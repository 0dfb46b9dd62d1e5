"""Does an adapter change anything? Base and adapter are compared on probe prompts, token by token.

Divergence is the mean Kullback-Leibler divergence KL(base || adapter) in nats over the probes' positions; with it goes
the share of positions whose most likely token differs. An adapter whose every logit equals the base's has no effect.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from inference.engine.errors import EngineError
from inference.engine.runner_interface import ProofResult
from inference.engine.text.prompts import encode
from inference.engine.text.token_ids import first_unknown

QUESTION = [{"role": "user", "content": "Who are you, and what is the weather like today?"}]
ANSWER = "I am here to help. Today"
PROBE_LIMIT = 32  # tokens of the probe that proves exactness and effect
SHORTEST = 8  # tokens; fewer say little about chunks and slots


def probe_tokens(tokenizer: Any, limit: int, vocabulary: int) -> tuple[list[int], int]:
    """Tokens of the probe, and the position from which they are compared (its last 16 at most).

    Every base gets one: where its template refuses the question, or tokens have no row in the embedding of
    `vocabulary` rows, the same words without the template serve, and at last any tokens at all. A request that meets
    the same hears of it; the load does not depend on it.
    """
    answer = list(tokenizer(ANSWER, add_special_tokens=False)["input_ids"])
    try:
        tokens = encode(tokenizer, QUESTION, None, False) + answer
    except (EngineError, MemoryError):  # the template's own refusal, or one that writes without measure
        tokens = []
    if not tokens or first_unknown(tokens, vocabulary) is not None:
        tokens = list(tokenizer(QUESTION[0]["content"], add_special_tokens=False)["input_ids"]) + answer
        tokens = [token for token in tokens if first_unknown([token], vocabulary) is None]
    if len(tokens) < SHORTEST:
        tokens += [token % vocabulary for token in range(len(tokens), 2 * SHORTEST)]
    tokens = tokens[-limit:]
    return tokens, max(0, len(tokens) - 16)


class Prober:
    """What the base says to the probe, and the proof under way.

    Sequences wait while rows are compared, so whatever concerns the base alone is computed once, when it is loaded.
    """

    def __init__(self, tokens: list[int], first: int, reference: Tensor, tolerance: float) -> None:
        """`reference` (positions, vocabulary): logits of the base from token `first` on. `tolerance`: the difference of
        logits, relative to the largest, that rounding alone may cause."""
        self.tokens = tokens
        self.first = first
        self.tolerance = tolerance
        self.reference = reference.float()
        self.probabilities = torch.softmax(self.reference, dim=-1)
        self.normaliser = torch.logsumexp(self.reference, dim=-1)
        self.best = self.reference.argmax(dim=-1)
        self.largest = max(1e-9, float(self.reference.abs().max()))
        self.digest = ""  # of the adapter whose proof is under way
        self.start()

    def begin(self, digest: str) -> None:
        self.digest = digest
        self.start()

    def forget(self, digest: str) -> None:
        """An adapter leaves, whatever of its proof is missing."""
        if self.digest == digest:
            self.digest = ""

    def start(self) -> None:
        self.done = 0  # probe tokens that the adapter has computed
        self.compared = 0  # positions whose logits were compared
        self.divergence = self.gap = 0.0
        self.changed = 0

    def piece(self, budget: int) -> range:
        """The next positions to compute: pieces of one size, as few as the budget of tokens allows."""
        left = len(self.tokens) - self.done
        start = self.done
        self.done += math.ceil(left / math.ceil(left / max(2, budget)))
        return range(start, self.done)

    def wanted(self, start: int, stop: int) -> list[int]:
        """Positions of a chunk whose logits are compared."""
        return [position for position in range(start, stop) if position >= self.first]

    def compare(self, logits: Tensor, own: int | None = None) -> None:
        """Take the adapter's logits (positions, vocabulary) of the next positions that were wanted. `own`: how many of
        them are the adapter's, where that is not as many as the base has; what both have is compared."""
        logits = logits.float()
        mine = slice(self.compared, self.compared + logits.shape[0])
        self.compared = mine.stop
        reference, probabilities, normaliser = self.reference[mine], self.probabilities[mine], self.normaliser[mine]
        if own is not None and own != reference.shape[-1]:
            common = min(own, reference.shape[-1])
            if own > common:  # what is more is an effect by itself
                more = float(logits[:, common:own].abs().amax())
                self.gap = more if math.isnan(more) else max(self.gap, more, self.largest)
            reference, logits = reference[:, :common], logits[:, :common]
            probabilities, normaliser = torch.softmax(reference, dim=-1), torch.logsumexp(reference, dim=-1)
        elif reference.shape[-1] < logits.shape[-1]:  # beside a row with more
            logits = logits[:, : reference.shape[-1]]
        apart = reference - logits
        # KL(p || q) = sum p (log p - log q); logits are log probabilities but for their normalisers.
        kl = torch.linalg.vecdot(probabilities, apart)
        kl += torch.logsumexp(logits, dim=-1) - normaliser
        self.divergence += float(kl.sum())
        self.changed += int((logits.argmax(dim=-1) != self.best[mine]).sum())
        gap = float(apart.abs_().amax())
        self.gap = gap if math.isnan(gap) else max(self.gap, gap)  # once NaN, always NaN

    def verdict(self) -> ProofResult:
        """Raises RuntimeError where positions are missing."""
        if self.compared != self.reference.shape[0]:
            raise RuntimeError(f"{self.compared} of {self.reference.shape[0]} positions were compared")
        if not math.isfinite(self.gap):
            said = "The adapter's answers are not finite numbers."
            return ProofResult(self.digest, False, "weights_nonfinite", said, 0.0, 0.0)
        kl, changed = max(0.0, self.divergence / self.compared), self.changed / self.compared
        # The base's rows beside an adapter's differ by rounding; a trained adapter lies orders of magnitude above.
        if self.gap / self.largest < self.tolerance:
            said = "The adapter changes no answer: its update is zero."
            return ProofResult(self.digest, False, "no_effect", said, kl, changed)
        return ProofResult(self.digest, True, "", "", kl, changed)
