"""Activation: validate again, copy into the store, serve that copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.conf import settings
from django.utils import timezone

from adapters import store
from adapters.bases.registry import Matcher, refresh
from adapters.failures import ActivationFailed, Busy, Refused
from adapters.formats import config as adapter_config
from adapters.formats.files import read_small
from adapters.formats.safetensors import Header
from adapters.identifiers import text_hash
from adapters.leases import HeldLease, adapter_lock, is_held
from adapters.models import EventKind, LoraAdapter, Status
from adapters.training.layout import CONFIG, AdapterFolder
from adapters.validation.outcome import describe
from adapters.validation.validate import ValidationResult, assert_fit, validate

from . import notes
from .mending import Outcome, mend
from .served import CLEANING, record_mended, released
from .sources import files_signature, look_again, open_weights, real_roots

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

Progress = Callable[[float], None]


def activate(adapter_id: int, actor: AbstractBaseUser | None, progress: Progress | None = None) -> LoraAdapter:
    """Verify the adapter's folder, copy it into the store and serve the copy. Nothing to do is a success.

    `progress` hears 0..1. Raises LoraAdapter.DoesNotExist, Busy where another call is at this adapter, and
    ActivationFailed with the code. A refusal fails the adapter, except that one which is being served stays served.
    """
    adapter = LoraAdapter.objects.select_related("base").get(pk=adapter_id)
    with HeldLease(adapter_lock(adapter_id)) as hold:

        def tell(fraction: float) -> None:
            hold.report(fraction)
            if progress is not None:
                progress(fraction)

        if is_held(CLEANING):
            raise Busy
        adapter.refresh_from_db()
        try:
            _activate(adapter, actor, tell)
        except Refused as refused:
            _refuse(adapter, actor, refused)
            raise ActivationFailed(refused.code, refused.details) from None
    return adapter


def _activate(adapter: LoraAdapter, actor: AbstractBaseUser | None, tell: Progress) -> None:
    roots = real_roots()
    candidate = look_again(adapter, roots)
    active = adapter.status == Status.ACTIVE and adapter.digest != ""
    fault = store.fault(adapter.digest) if active else None
    served = active and fault is None
    if candidate is None:
        if served or (active and _mended(adapter, actor)):
            return  # its training folder is gone, what is served is not
        raise Refused("files_missing")
    if served and not adapter.update_available and adapter.signature == text_hash(candidate.signature, ""):
        return
    refresh()
    chosen = adapter.base if adapter.base_by_hand else None
    verdict = validate(candidate, Matcher(), roots, settings.SCAN_SETTLE_SECONDS, chosen)
    if verdict.code:
        if not verdict.incomplete:
            describe(adapter, candidate, verdict)
        raise Refused(verdict.code, **verdict.details)
    digest, header = _copy(candidate, verdict, roots, tell)
    verdict.header = header
    assert_fit(verdict)
    again = look_again(adapter, roots)
    if again is None or again.core_signature != candidate.core_signature:
        raise Refused("changed_meanwhile")
    before = adapter.digest
    describe(adapter, candidate, verdict)
    if not adapter.mark_active(actor, digest):
        raise Busy
    notes.write(digest, store.state(digest))
    if fault is not None and before == digest:
        record_mended(adapter, actor, fault)
    if before and before != digest:
        released(before, "replaced")


def _copy(
    candidate: AdapterFolder, verdict: ValidationResult, roots: tuple[str, ...], tell: Progress
) -> tuple[str, Header]:
    config = read_small(roots, candidate.path, CONFIG, adapter_config.LIMIT)
    with open_weights(candidate, roots) as (file, header):
        # The header is read again from the very file that is copied: it may not be the one that was validated.
        verdict.header = header
        assert_fit(verdict)
        return store.put(config, file, header, tell), header


def _refuse(adapter: LoraAdapter, actor: AbstractBaseUser | None, refused: Refused) -> None:
    """Write a refusal down: as a failure, or beside the copy that is still served, or as "wait"."""
    if adapter.status == Status.ACTIVE and adapter.digest and not _mended(adapter, actor):
        return  # failed for its copy, which is the graver reason
    if refused.code == "incomplete":
        LoraAdapter.objects.filter(pk=adapter.pk).update(incomplete=True, updated_at=timezone.now())
        return
    if refused.code in {"files_missing", "changed_meanwhile", "store_full", "store_unwritable"}:
        adapter.record(EventKind.REFUSED, actor, refused.code, refused.details, adapter.status, adapter.status)
        return
    if adapter.status == Status.ACTIVE and adapter.digest:
        adapter.record(EventKind.REFUSED, actor, refused.code, refused.details, adapter.status, adapter.status)
        return
    adapter.mark_failed(actor, refused.code, {**refused.details, "files": files_signature(adapter)})


def _mended(adapter: LoraAdapter, actor: AbstractBaseUser | None) -> bool:
    """See to the copy that an active adapter, whose lock is held, is served from. False where it has failed for it."""
    outcome = mend(adapter.digest, actor, held=adapter.pk)
    if outcome is Outcome.BUSY:
        raise Busy
    adapter.refresh_from_db()
    return outcome is not Outcome.FAILED


def deactivate(adapter_id: int, actor: AbstractBaseUser | None, reason: str = "") -> LoraAdapter:
    """Stop serving an adapter; nothing to do is a success. Raises DoesNotExist, Busy."""
    adapter = LoraAdapter.objects.select_related("base").get(pk=adapter_id)
    with HeldLease(adapter_lock(adapter_id)):
        adapter.refresh_from_db()
        digest = adapter.digest
        if adapter.status == Status.ACTIVE:
            if not adapter.mark_inactive(actor, reason):
                raise Busy
            released(digest, "deactivated")
    return adapter
