"""Probabilities of a prompt's own tokens.

Logits of a whole prompt are tokens × vocabulary numbers: 1.2 GB for 2,048 tokens of a vocabulary of 150,000. So the
decoder runs over the step once, its output is kept (tokens × hidden size), and logits are made of it in pieces, of each
row of which no more is kept than is told: the logarithm of the given token's probability and the likeliest ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.engine.errors import EngineError

PIECE_BYTES = 32 * 2**20  # of the logits of a piece in float32
LEAST = -9999.0  # what a probability of zero is told as: JSON has no infinity
H = TypeVar("H")


@dataclass(frozen=True)
class Mark:
    """The logits of row `row` of a step give the probability of `token`, the next of its sequence (chunk `chunk`)."""

    chunk: int
    row: int
    token: int


@dataclass(frozen=True)
class Score:
    """Logarithm of a token's probability (None: the logits are not finite), and the likeliest tokens with theirs."""

    logprob: float | None
    top: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Heard:
    """The output of the decoder in one forward pass."""

    output: Any = None

    def rows(self, wanted: list[int]) -> Tensor:
        """(len(wanted), hidden size)."""
        hidden: Tensor = self.output.last_hidden_state[0]
        return hidden[torch.tensor(wanted, device=hidden.device)]


class Tail:
    """What a model's class does with its decoder's output: the output layer, and any scale or bound of the logits.

    Its own `forward` is run for that, over output that is there already, so that no architecture is written anew here.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self.module = module
        self.decoder: Any = module.base_model
        self.proven = False
        self._kind: Any = None  # of the decoder's output

    @contextmanager
    def listening(self) -> Iterator[Heard]:
        """Keep what the decoder gives meanwhile. Raises EngineError where the model has none of its own."""
        if self.decoder is self.module:
            raise unsupported("its class has no decoder of its own")
        heard = Heard()

        def keep(_module: Any, _args: Any, output: Any) -> None:
            heard.output = output

        handle = self.decoder.register_forward_hook(keep)
        try:
            yield heard
        finally:
            handle.remove()
        if getattr(heard.output, "last_hidden_state", None) is None:
            raise unsupported("its decoder tells no hidden state")
        self._kind = type(heard.output)

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, vocabulary) of (rows, hidden size)."""
        given = self._kind(last_hidden_state=hidden[None])
        own = self.decoder.__dict__.get("forward")
        self.decoder.forward = lambda *_args, **_named: given
        try:
            ids = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
            made: Tensor = self.module(ids, use_cache=False).logits[0]
        finally:
            del self.decoder.forward
            if own is not None:
                self.decoder.forward = own
        return made

    def prove(self, made: Tensor, whole: Tensor, tolerance: float) -> None:
        """Logits made of the decoder's output must be those that the model itself gave. Raises EngineError."""
        apart = float((made.float() - whole.float()).abs().max())
        if made.shape != whole.shape or not apart <= tolerance * max(1e-9, float(whole.float().abs().max())):
            raise unsupported(f"logits made in pieces differ by {apart:.1e}")
        self.proven = True


def unsupported(reason: str) -> EngineError:
    message = f"Probabilities of a prompt cannot be computed with this base: {reason}."
    return EngineError("scoring_unsupported", message, reason=reason)


def score(
    hidden: H, tokens: list[int], tops: list[int], vocabulary: int, logits_of: Callable[[H, slice], Tensor]
) -> list[Score]:
    """Of each row the score of its token, with `tops` alternatives. `logits_of(hidden, rows)` makes the logits of some
    rows (rows, vocabulary)."""
    size = max(1, PIECE_BYTES // (4 * vocabulary))
    found: list[Score] = []
    for start in range(0, len(tokens), size):
        part = slice(start, min(start + size, len(tokens)))
        found += scores(logits_of(hidden, part).float(), tokens[part], tops[part])
    return found


def scores(logits: Tensor, tokens: list[int], tops: list[int]) -> list[Score]:
    """By logits (rows, vocabulary) in float32."""
    count, vocabulary = min(max(tops), logits.shape[-1]), logits.shape[-1]
    total = torch.logsumexp(logits, dim=-1)
    wanted = torch.tensor([min(token, vocabulary - 1) for token in tokens], device=logits.device)
    chosen = (logits.gather(1, wanted[:, None])[:, 0] - total).tolist()
    finite = torch.isfinite(total).tolist()
    values, ids = torch.topk(logits, count, dim=-1)
    likeliest, names = (values - total[:, None]).tolist(), ids.tolist()
    found = []
    for row, (token, top) in enumerate(zip(tokens, tops, strict=True)):
        if not finite[row]:
            found.append(Score(None))
            continue
        # An embedding may have more rows than there are logits: such a token is never likely.
        logprob = max(LEAST, chosen[row]) if token < vocabulary else LEAST
        pairs = zip(names[row][:top], likeliest[row][:top], strict=True)
        found.append(Score(logprob, [(other, max(LEAST, value)) for other, value in pairs]))
    return found
