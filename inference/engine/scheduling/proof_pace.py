"""How much of a proof goes into a step that others wait for.

A proof may make a step longer by the time of one more step and GRACE, and its pieces aim at SHARE of that. How many
probe tokens that are depends on the model, the machine and the batch, so it is measured as it goes: the usual step, and
what a probe token adds to it.
"""

from __future__ import annotations

GRACE = 0.02  # seconds
SHARE = 0.7  # of what is allowed, since no step is like the one before
FIRST = 8  # probe tokens in a step before anything is known
LEAST = 4
MEMORY = 0.8  # weight of the past in what a usual step takes


class ProofPace:
    def __init__(self) -> None:
        self.usual: float | None = None  # seconds of a step in which sequences only decode
        self.token: float | None = None  # seconds that a probe token adds

    def decoded(self, seconds: float) -> None:
        """A step of nothing but decoding rows."""
        self.usual = seconds if self.usual is None else MEMORY * self.usual + (1 - MEMORY) * seconds

    def probed(self, tokens: int, seconds: float) -> None:
        """The same with a piece of a proof."""
        if self.usual is None or seconds <= self.usual:
            return  # the batch has become smaller meanwhile: nothing is learnt about the proof
        added = (seconds - self.usual) / tokens
        self.token = added if self.token is None else (self.token + added) / 2

    def budget(self) -> int:
        """Probe tokens that the next step may take."""
        if self.usual is None or not self.token:
            return FIRST
        return max(LEAST, int(SHARE * (self.usual + GRACE) / self.token))
