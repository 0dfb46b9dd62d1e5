"""Deciding about a repair: what the doctor found has to pass every check that other adapters pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from adapters.bases.registry import shapes_of
from adapters.failures import Refused
from adapters.formats import config as adapter_config
from adapters.formats.safetensors import A, B, Header
from adapters.models import BaseModel

from . import copies
from .fit import not_lora
from .repair.examine import Part, examine
from .repair.plan import Plan
from .repair.reading import RepairedFile

if TYPE_CHECKING:
    from adapters.models import Repair

# Refusals that say nothing of how the files are laid out: no repair changes them.
FINAL = {
    "repair_ambiguous",
    "weights_empty",
    "weights_flat",
    "weights_truncated",
    "header_too_large",
    "pattern_too_slow",
}


@dataclass(frozen=True)
class Accepted:
    """What an operator has agreed to: a plan, and what the files held (`content_key`)."""

    plan: str
    content: str


def accepted_of(repair: Repair | None) -> Accepted | None:
    if repair is None or repair.accepted_at is None:
        return None
    return Accepted(repair.plan, repair.content)


def find(raw: Any, parts: Sequence[Part], base: BaseModel | None, refused: Refused) -> tuple[Plan, BaseModel] | None:
    """(plan, base) for files that were refused; None where there is no plan.

    Raises Refused: repair_ambiguous, and what stands against the adapter that the files really hold.
    """
    if base is None or refused.code in FINAL:
        return None
    plan = examine(raw, parts, base, shapes_of(base))
    return (plan, base) if plan is not None else None


def read_plan(plan: Plan, files: Sequence[BinaryIO]) -> tuple[adapter_config.AdapterConfig, Header, RepairedFile]:
    """What the repaired copy would be: checked config, header, bytes. Raises Refused."""
    file = RepairedFile(plan, files)
    return adapter_config.check(json.loads(plan.config)), file.header, file


def check_dropped(
    plan: Plan, files: Sequence[BinaryIO], parts: Sequence[Part], base: BaseModel, thorough: bool = False
) -> None:
    """Raises Refused where a tensor that the repair leaves out is not the base's own."""
    for file, part in zip(files, parts, strict=True) if plan.dropped else ():
        own = {name: part.header.tensors[name] for name in plan.dropped if name in part.header.tensors}
        header = replace(part.header, tensors=own)
        changed, unknown, _ = copies.judge(file, header, base, thorough)
        for name in [unknown] if unknown else sorted(changed):
            raise not_lora(name, own[name], header, base.name)


def offer(plan: Plan) -> Refused:
    return Refused("repairable", kinds=list(plan.kinds))


def check_gathered(header: Header) -> None:
    """Raises Refused where LoRA matrices are the flat pieces that one process of several held."""
    matrices = [(name, tensor) for name, tensor in header.tensors.items() if name.endswith((A, B))]
    flat = [name for name, tensor in matrices if len(tensor.shape) == 1]
    if flat:
        raise Refused("weights_flat", flat=len(flat), total=len(matrices), example=flat[0])
