"""Activation: validate again, copy into the store, serve that copy."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from django.conf import settings
from django.utils import timezone

from adapters import hooks, store
from adapters.bases.registry import Matcher, refresh
from adapters.failures import ActivationFailed, Busy, Refused
from adapters.formats import config as adapter_config
from adapters.formats.files import inside, open_below, read_small
from adapters.formats.safetensors import Header, read_header
from adapters.identifiers import text_hash
from adapters.leases import HeldLease, adapter_lock, is_held
from adapters.models import EventKind, LoraAdapter, Status
from adapters.training.layout import CONFIG, PICKLE, WEIGHTS, AdapterFolder, look
from adapters.validation.outcome import describe
from adapters.validation.validate import ValidationResult, assert_fit, validate

from .conversion import converted

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

CLEANING = "store"  # the lease of cleaning.py
Progress = Callable[[float], None]


def real_roots() -> tuple[str, ...]:
    return tuple(os.path.realpath(root) for root in settings.LORA_ROOTS)


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
    if candidate is None:
        if adapter.status == Status.ACTIVE and store.has(adapter.digest):
            return  # its training folder is gone, what is served is not
        raise Refused("files_missing")
    served = adapter.status == Status.ACTIVE and store.has(adapter.digest)
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
    if before and before != digest:
        released(before, "replaced")


def _copy(
    candidate: AdapterFolder, verdict: ValidationResult, roots: tuple[str, ...], tell: Progress
) -> tuple[str, Header]:
    config = read_small(roots, candidate.path, CONFIG, adapter_config.LIMIT)
    if candidate.weights == PICKLE:
        with converted(roots, candidate.path) as (file, header):
            verdict.header = header
            assert_fit(verdict)
            return store.put(config, file, header, tell), header
    with open_below(roots, candidate.path, WEIGHTS) as file:
        # The header is read again from the very file that is copied: it may not be the one that was validated.
        header = read_header(file, os.fstat(file.fileno()).st_size)
        verdict.header = header
        assert_fit(verdict)
        return store.put(config, file, header, tell), header


def look_again(adapter: LoraAdapter, roots: tuple[str, ...]) -> AdapterFolder | None:
    """The adapter's folder as it is now, only if it still lies below a configured root."""
    if not adapter.path or not inside(adapter.path, roots):
        return None
    root = next(r for r in roots if inside(adapter.path, (r,)))
    return look(root, adapter.path, roots)


def _refuse(adapter: LoraAdapter, actor: AbstractBaseUser | None, refused: Refused) -> None:
    """Write a refusal down: as a failure, or beside the copy that is still served, or as "wait"."""
    if refused.code == "incomplete":
        LoraAdapter.objects.filter(pk=adapter.pk).update(incomplete=True, updated_at=timezone.now())
        return
    if refused.code in {"files_missing", "changed_meanwhile", "store_full", "store_unwritable"}:
        adapter.record(EventKind.REFUSED, actor, refused.code, refused.details, adapter.status, adapter.status)
        return
    if adapter.status == Status.ACTIVE and store.has(adapter.digest):
        adapter.record(EventKind.REFUSED, actor, refused.code, refused.details, adapter.status, adapter.status)
        return
    adapter.mark_failed(actor, refused.code, {**refused.details, "files": files_signature(adapter)})


def files_signature(adapter: LoraAdapter) -> str:
    """Of config and weights as they are now: a refusal by their values stands until this changes."""
    candidate = look_again(adapter, real_roots())
    return candidate.core_signature if candidate is not None else ""


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


def released(digest: str, reason: str) -> None:
    """Tell the running side that `digest` is not served any more, unless another adapter has the same content."""
    if digest and not LoraAdapter.objects.active().filter(digest=digest).exists():
        hooks.released(digest, reason)
