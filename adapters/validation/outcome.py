"""What a verdict writes into the row of its adapter, in a scan and outside of one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from adapters.bases.registry import fingerprint
from adapters.identifiers import text_hash
from adapters.models import LoraAdapter, Status
from adapters.training.layout import AdapterFolder
from adapters.training.naming import run_name_of

from .validate import ValidationResult

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

DESCRIBED = [
    "root", "path", "signature", "group_hash", "run_name", "checkpoint", "flags", "incomplete", "missing",
    "update_available", "base", "base_name_recorded", "peft_type", "rank", "alpha", "target_modules", "size_bytes",
    "trained_at", "updated_at",
]  # fmt: skip


def signature(candidate: AdapterFolder, failure_code: str, bases: str) -> str:
    """A row's signature. An outcome that depended on the base models is found again when those change."""
    return text_hash(candidate.signature, bases if failure_code.startswith(("base_", "tensors_")) else "")


def fill(adapter: LoraAdapter, candidate: AdapterFolder, verdict: ValidationResult, bases: str) -> None:
    """Write what was seen into the object, without saving and without touching its status."""
    glance = verdict.glance
    adapter.root, adapter.path = candidate.root, candidate.path
    code = verdict.code if not verdict.incomplete else ""
    adapter.signature = signature(candidate, code, bases)
    adapter.group_hash = text_hash(candidate.run)
    adapter.run_name = run_name_of(candidate.root, candidate.run)[:255]
    adapter.checkpoint = candidate.checkpoint
    adapter.incomplete, adapter.missing = verdict.incomplete, False
    adapter.flags = verdict.flags
    if adapter.status == Status.ACTIVE and adapter.digest:
        # The stored copy is what is served and shown; the folder's state is a remark.
        if verdict.code and not verdict.incomplete:
            adapter.flags = sorted({*verdict.flags, "source_broken"})
        return
    if not adapter.base_by_hand:
        adapter.base = verdict.base
    adapter.base_name_recorded = glance.base_name
    adapter.peft_type, adapter.alpha = glance.peft_type, glance.alpha
    adapter.rank = verdict.rank or glance.rank
    adapter.target_modules = list(glance.target_modules)
    adapter.size_bytes = candidate.size
    adapter.trained_at = datetime.fromtimestamp(candidate.newest / 1e9, tz=UTC) if candidate.newest else None


def settle_status(
    adapter: LoraAdapter, candidate: AdapterFolder, verdict: ValidationResult, actor: AbstractBaseUser | None
) -> None:
    """Move a row that exists to the status that the verdict asks for. What is active stays active."""
    if adapter.status == Status.ACTIVE and (adapter.digest or not verdict.code or verdict.incomplete):
        return
    if verdict.code and not verdict.incomplete:
        if adapter.status != Status.FAILED or adapter.failure_code != verdict.code:
            adapter.mark_failed(actor, verdict.code, verdict.details)
        return
    if adapter.status == Status.FAILED:
        # A refusal that only reading the values found stands while config and weights are the same.
        if not verdict.incomplete and adapter.failure_details.get("files") == candidate.core_signature:
            return
        adapter.mark_recovered(actor)


def describe(adapter: LoraAdapter, candidate: AdapterFolder, verdict: ValidationResult) -> None:
    """`fill` and save, outside of a scan."""
    fill(adapter, candidate, verdict, fingerprint())
    if adapter.base_id is None or verdict.base is not None and not adapter.base_by_hand:
        adapter.base = verdict.base
    adapter.update_available = False
    adapter.save(update_fields=DESCRIBED)
