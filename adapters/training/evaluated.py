"""What the trainer's own evaluations came to: the loss at a step, and of how many samples in how many batches.

Transformers' Trainer logs of each `eval_loss` the samples and batches a second beside its time, from which their
numbers follow; its loss is the mean over samples of the mean loss of a token in their batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from adapters.failures import Refused
from adapters.formats.files import parse_json, read_small

from .facts import LIMITS, STATE

SURE = 0.3  # a number that is told as precisely as this, to both sides, is known
RATE, TIME = 0.0005, 0.00005  # how far the Trainer's rounded figures may be from the true ones


@dataclass(frozen=True)
class Evaluated:
    """`samples`, `batches`: None where that cannot be told."""

    step: int
    loss: float
    samples: int | None = None
    batches: int | None = None

    @property
    def batch(self) -> int | None:
        """Samples of a batch; the last one may have fewer."""
        return -(-self.samples // self.batches) if self.samples and self.batches else None


def evaluated(roots: tuple[str, ...], folders: Iterable[str], step: int) -> Evaluated | None:
    """At exactly this step, by the first of the folders whose `trainer_state.json` tells; None for none."""
    for folder in folders:
        try:
            state = parse_json(read_small(roots, folder, STATE, LIMITS[STATE]), STATE, strict=False)
        except (Refused, ValueError, OSError):
            continue
        history = state.get("log_history") if isinstance(state, dict) else None
        for entry in reversed(history) if isinstance(history, list) else ():
            if isinstance(entry, dict) and entry.get("step") == step and _is_loss(entry.get("eval_loss")):
                seconds = entry.get("eval_runtime")
                samples, batches = (_count(entry.get(f"eval_{n}_per_second"), seconds) for n in ("samples", "steps"))
                return Evaluated(step, float(entry["eval_loss"]), samples, batches)
    return None


def _is_loss(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e6  # (which no NaN is)


def _count(rate: Any, seconds: Any) -> int | None:
    """Of a rounded rate and time, where only one whole number can have made them."""
    if type(rate) is not float or type(seconds) is not float or not (0 < rate < 1e6 and 0 < seconds < 1e7):
        return None
    found = rate * seconds
    doubt = RATE * seconds + TIME * rate
    nearest = round(found)
    return nearest if nearest > 0 and doubt < SURE and abs(found - nearest) <= doubt + 1e-6 else None
