"""What another precision of the base model costs: the loss of the same samples in each, against the most exact one.

All losses are counted in one way, that which comes nearest to what the trainer recorded. Two of them are compared over
the samples that were measured in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from .figures import WAYS, Figure, Sum, mean, tolerance

PRECISIONS = ("fp32", "bf16", "int8", "nf4")  # the most exact one first
REMARKS = {
    "explains": _("In %(name)s the loss is %(loss)s, as recorded: the precision makes the difference."),
    "loses": _(
        "%(name)s loses %(difference)s nats against %(reference)s; up to %(tolerance)s (0.01 nats, or 2%% of the loss) "
        "would be tolerated."
    ),
    "gains": _(
        "In %(name)s the loss is %(difference)s nats lower than in %(reference)s; up to %(tolerance)s (0.01 nats, or "
        "2%% of the loss) would be tolerated."
    ),
    "same": _(
        "No precision differs from %(reference)s by more than %(tolerance)s nats (0.01 nats, or 2%% of the loss); "
        "%(name)s differs most, by %(difference)s."
    ),
}


@dataclass(frozen=True)
class Measured:
    """`difference`: from the loss of `reference` over the common samples, None for that one itself; `tolerance`: what
    of it does not matter; `recorded`: whether the loss is within the tolerance of what the trainer recorded."""

    name: str
    loss: float
    tokens: int
    samples: int
    reference: str = ""
    difference: float | None = None
    tolerance: float | None = None
    recorded: bool = False

    @property
    def matters(self) -> bool:
        return self.difference is not None and self.tolerance is not None and abs(self.difference) > self.tolerance


Sums = dict[int, Sum]  # by the number of the sample in the report


def measured(
    samples: Sequence[Any], served: str, way: str, recorded: float | None = None, batch: int | None = None
) -> list[Measured]:
    """By precision, of the samples that have figures (`facts`, `elsewhere`); `served`: what they were served in."""
    found: dict[str, Sums] = {}
    for at, sample in enumerate(samples):
        own = {name: sums for name, sums in sample.elsewhere.items() if name != served}
        for name, sums in {**own, **({served: sample.facts.get("served", {})} if served else {})}.items():
            if sums.get(way):
                found.setdefault(name, {})[at] = tuple(sums[way])
    names = sorted(found, key=lambda name: PRECISIONS.index(name) if name in PRECISIONS else len(PRECISIONS))
    if not names:
        return []
    reference = names[0] if names[0] == "fp32" else served if served in found else names[0]
    return [_compared(name, found, reference, recorded, batch if len(found[name]) == len(samples) else None)
            for name in names]  # fmt: skip


def _compared(
    name: str, found: Mapping[str, Sums], reference: str, recorded: float | None, batch: int | None
) -> Measured:
    own, other = found[name], found[reference]
    loss = mean([*own.values()], batch)
    difference = allowed = None
    common = [at for at in own if at in other]
    if name != reference and common:
        exact = mean([other[at] for at in common], batch)
        difference, allowed = mean([own[at] for at in common], batch) - exact, tolerance(exact)
    near = recorded is not None and abs(loss - recorded) <= tolerance(recorded)
    tokens = sum(count for _loss, count in own.values())
    return Measured(name, loss, tokens, len(own), reference, difference, allowed, near)


def way_of(served: Figure | None, samples: Sequence[Any]) -> str:
    """That of the figure that is compared; where not all samples have it, the first that some have."""
    if served is not None:
        return served.way
    return next((way for way in WAYS if any(one.facts.get("served", {}).get(way) for one in samples)), WAYS[0])


def remark(found: Sequence[Measured], served: str, apart: bool) -> dict[str, Any]:
    """A key of REMARKS and the values it names; {} where one precision alone was measured. `apart`: what is served
    has another loss than the recorded one."""
    explains = next((one for one in found if one.recorded and one.name != served), None)
    if apart and explains is not None:
        return {"code": "explains", "values": {"name": explains.name, "loss": f"{explains.loss:.3f}"}}
    others = [one for one in found if one.difference is not None and one.tolerance is not None]
    if not others:
        return {}
    # Of those that matter the largest, else the largest of all
    worst = max(others, key=lambda one: (one.matters, abs(one.difference or 0.0)))
    difference = worst.difference or 0.0
    code = "same" if not worst.matters else "loses" if difference > 0 else "gains"
    values = {
        "name": worst.name, "reference": worst.reference, "difference": f"{abs(difference):.3f}",
        "tolerance": f"{worst.tolerance:.3f}",
    }  # fmt: skip
    return {"code": code, "values": values}
