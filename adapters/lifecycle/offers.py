"""What was found about the repair of an adapter's files, kept beside its row."""

from __future__ import annotations

from typing import Any

from adapters.bases.registry import shapes_of
from adapters.failures import Refused
from adapters.formats import config as adapter_config
from adapters.formats.files import parse_json, read_small
from adapters.formats.safetensors import Header, Tensor
from adapters.identifiers import UNKNOWN
from adapters.models import LoraAdapter, Repair, repair_of
from adapters.training.layout import CONFIG, WEIGHTS
from adapters.validation.repair.examine import Part, examine
from adapters.validation.repair.parts import opened
from adapters.validation.repair.plan import Change
from adapters.validation.validate import ValidationResult, key_of

from .sources import look_again, real_roots


def note(adapter: LoraAdapter, verdict: ValidationResult, converted: Header | None = None) -> None:
    """Write an offer down, or take away one that does not hold any more; one that was accepted stays as it is while the
    files and what would be changed in them are the same. `converted`: of weights whose names nobody sees otherwise."""
    known = repair_of(adapter)
    plan = verdict.plan
    if verdict.incomplete:
        return  # what is still being written is looked at again
    if plan is None:
        if known is not None and _is_over(known, verdict):
            known.delete()
        return
    if known is not None and (known.plan, known.content) == (plan.key, verdict.content_key):
        return
    facts: dict[str, Any] = {
        "plan": plan.key,
        "content": verdict.content_key,
        "kinds": list(plan.kinds),
        "changes": len(plan.changes),
        "header": _names(converted) if converted is not None else {},
        "accepted_at": None,
    }
    Repair.objects.update_or_create(adapter_id=adapter.pk, defaults=facts)


def _is_over(known: Repair, verdict: ValidationResult) -> bool:
    if verdict.content_key not in ("", UNKNOWN, known.content):
        return True
    return verdict.header is not None and verdict.code == ""  # (what is converted first has no header in a scan)


def _names(header: Header) -> dict[str, list[Any]]:
    return {name: [tensor.dtype, list(tensor.shape)] for name, tensor in header.tensors.items()}


def changes_of(adapter: LoraAdapter, repair: Repair) -> list[Change] | None:
    """What the repair changes, from the files as they are now; None where they are not those that it was found for, or
    are gone. Reads headers alone."""
    roots = real_roots()
    candidate = look_again(adapter, roots)
    if candidate is None or adapter.base is None or key_of(candidate, roots) != repair.content:
        return None
    try:
        raw = parse_json(read_small(roots, candidate.path, CONFIG, adapter_config.LIMIT), CONFIG)
        if repair.header:
            parts = [Part(WEIGHTS, _header(repair.header))]
        else:
            with opened(roots, candidate) as (_, parts):
                pass
        plan = examine(raw, parts, adapter.base, shapes_of(adapter.base))
    except (Refused, OSError):
        return None
    return plan.changes if plan is not None and plan.key == repair.plan else None


def _header(names: dict[str, list[Any]]) -> Header:
    """Names and shapes alone, of weights that nobody converts only to show them."""
    return Header({name: Tensor(dtype, tuple(shape), 0, 0) for name, (dtype, shape) in names.items()}, {}, 0, 0)
