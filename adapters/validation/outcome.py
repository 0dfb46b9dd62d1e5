"""What a verdict writes into the row of its adapter, in a scan and outside of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapters.bases.registry import fingerprint
from adapters.failures import CHECK_FAILED, FAILURES
from adapters.identifiers import text_hash
from adapters.models import BaseModel, LoraAdapter, Status
from adapters.training.facts import DIVERGED
from adapters.training.layout import AdapterFolder, moment_of
from adapters.training.naming import run_name_of

from .validate import ValidationResult

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

DESCRIBED = [
    "root", "path", "signature", "content_key", "group_hash", "run_name", "checkpoint", "flags", "incomplete",
    "missing", "update_available", "base", "matched_by", "base_name_recorded", "peft_type", "rank", "alpha",
    "target_modules",
    "size_bytes", "trained_at", "origin", "updated_at",
]  # fmt: skip


HALF = 32  # characters
OF_COPIES = {"repaired", "weights_unwrapped"}  # remarks on the stored copy, whatever its folder holds by now
DEPENDING = {"config", "weights", "repair", "base", "effect"}  # areas of refusals that may depend on the base model
IMPORTED = "legacy_failed"  # which an activation judges anew
# Refusals that may end without a change of the files: of access, of LORA_ROOTS, of the portal itself.
LOOKED_AT_AGAIN = {"unreadable", "outside_root", CHECK_FAILED}


def files_hash(candidate: AdapterFolder) -> str:
    """The signature of a row whose outcome depended on its files alone."""
    return text_hash(candidate.signature, "")


def signature(candidate: AdapterFolder, failure_code: str, bases: str) -> str:
    """A row's signature: its first half tells the files. Where the outcome is a refusal that may depend on the base
    models, the second half tells those: it is looked at again when they change."""
    files = files_hash(candidate)
    return files[:HALF] + text_hash(bases)[:HALF] if _may_depend_on_base(failure_code) else files


def same_files(stored: str, candidate: AdapterFolder) -> bool:
    """Whether a row's signature was made for the files that lie there now."""
    return stored[:HALF] == files_hash(candidate)[:HALF]


def is_settled(stored: str, failure_code: str, candidate: AdapterFolder, bases: str) -> bool:
    """Whether a row with this signature and failure needs no other look: neither files nor base models have changed."""
    if failure_code in LOOKED_AT_AGAIN:
        return False
    for_bases = signature(candidate, "base_not_found", bases)
    if _may_depend_on_base(failure_code):
        return stored == for_bases
    # (An active adapter whose folder is refused has no failure code.)
    return stored in {files_hash(candidate), for_bases}


def _may_depend_on_base(failure_code: str) -> bool:
    failure = FAILURES.get(failure_code)
    return failure is not None and failure.area in DEPENDING and failure_code != IMPORTED


def described(adapter: LoraAdapter) -> list[Any]:
    """The values that `fill` writes."""
    return [getattr(adapter, "base_id" if name == "base" else name) for name in DESCRIBED if name != "updated_at"]


def fill(
    adapter: LoraAdapter, candidate: AdapterFolder, verdict: ValidationResult, bases: str, standing: str = "",
    replaces: bool = False,
) -> None:  # fmt: skip
    """Write what was seen into the object, without saving and without touching its status.

    `standing`: the failure code that the row keeps although `verdict` has none. `replaces`: the folder's content takes
    the place of a stored copy that is served.
    """
    glance = verdict.glance
    adapter.root, adapter.path = candidate.root, candidate.path
    code = verdict.code if not verdict.incomplete else ""
    adapter.signature = signature(candidate, code or standing, bases)
    adapter.content_key = verdict.content_key
    adapter.group_hash = text_hash(candidate.run)
    adapter.run_name = run_name_of(candidate.root, candidate.run)[:255]
    adapter.checkpoint = candidate.checkpoint
    adapter.incomplete, adapter.missing = verdict.incomplete, False
    standing_flags = {DIVERGED}  # what the training facts say, which are read after this
    if _is_served(adapter) and not replaces:
        standing_flags |= OF_COPIES
    kept = standing_flags & set(adapter.flags)
    adapter.flags = sorted({*verdict.flags, *kept})
    if verdict.base is not None and adapter.base_id in (None, verdict.base.pk):
        adapter.matched_by = verdict.matched_by
    if _is_served(adapter) and not replaces:
        # The stored copy is what is served and shown; the folder's state is a remark.
        if verdict.code and not verdict.incomplete:
            adapter.flags = sorted({*adapter.flags, "source_broken"})
        return
    if not adapter.base_by_hand:
        adapter.base = verdict.base
        adapter.matched_by = verdict.matched_by if verdict.base is not None else ""
    adapter.base_name_recorded = glance.base_name
    adapter.peft_type, adapter.alpha = glance.peft_type, glance.alpha
    adapter.rank = verdict.rank or glance.rank
    adapter.target_modules = list(glance.target_modules)
    adapter.size_bytes = candidate.size
    adapter.trained_at = moment_of(candidate.newest)


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
        if not verdict.incomplete and _stands(adapter.failure_details, candidate, verdict.base):
            return
        adapter.mark_recovered(actor)


def _stands(details: dict[str, Any], candidate: AdapterFolder, base: BaseModel | None) -> bool:
    """Whether a refusal that only reading the values found still holds: its files are the same, and where it came from
    a comparison with the base model, that has the content that it had."""
    if details.get("files") != candidate.core_signature:
        return False
    return "base_key" not in details or (base is not None and details["base_key"] == base.key)


def _is_served(adapter: LoraAdapter) -> bool:
    return adapter.status == Status.ACTIVE and adapter.digest != ""


def describe(
    adapter: LoraAdapter, candidate: AdapterFolder, verdict: ValidationResult, standing: str = "",
    replaces: bool = False,
) -> None:  # fmt: skip
    """`fill` and save, outside of a scan."""
    fill(adapter, candidate, verdict, fingerprint(), standing, replaces)
    if adapter.base_id is None:  # one that was set by hand is there no more
        adapter.base, adapter.matched_by = verdict.base, verdict.matched_by
    adapter.update_available = False
    adapter.save(update_fields=DESCRIBED)
