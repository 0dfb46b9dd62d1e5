"""Activation: validate again, copy into the store, serve that copy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from adapters import hooks, store
from adapters.bases import support
from adapters.bases.matching import Matcher
from adapters.bases.registry import folder_of, is_current, refresh, template_of
from adapters.failures import ActivationFailed, BusyError, PassingRefusal, Refused
from adapters.formats import config as adapter_config
from adapters.formats.files import parse_json
from adapters.leases import HeldLease, adapter_lock, is_held
from adapters.models import BaseModel, EventKind, LoraAdapter, Status, repair_of
from adapters.training.layout import CONFIG, WEIGHTS, AdapterFolder
from adapters.training.prompting import digest_of, read_prompting
from adapters.validation import repairs
from adapters.validation.outcome import describe, files_hash
from adapters.validation.validate import ValidationResult, assert_fit, check_tokens, validate

from . import notes, offers
from .mending import Outcome, mend
from .served import CLEANING, record_mended, released
from .sources import Source, look_again, open_source, real_roots

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Prepared:
    """A verified copy in the store that nothing is served from yet. `prompting`: what the row keeps of it."""

    digest: str
    verdict: ValidationResult
    prompting: dict[str, Any]

    @property
    def base(self) -> BaseModel | None:
        return self.verdict.base


def activate(
    adapter_id: int, actor: AbstractBaseUser | None, progress: Progress | None = None, override: str = ""
) -> LoraAdapter:
    """Verify the adapter's folder, copy it into the store and serve the copy. Nothing to do is a success.

    `progress` hears 0..1. `override`: why it is to be served though a gate objects; history keeps it. Raises
    LoraAdapter.DoesNotExist, BusyError where another call is at this adapter, and ActivationFailed with the code. A
    refusal fails the adapter, except that one which is being served stays served, and that a gate's fails nothing.
    """
    adapter = LoraAdapter.objects.select_related("base").get(pk=adapter_id)
    with HeldLease(adapter_lock(adapter_id)) as hold:

        def tell(fraction: float) -> None:
            hold.report(fraction)
            if progress is not None:
                progress(fraction)

        if is_held(CLEANING):
            raise BusyError
        adapter.refresh_from_db()
        stands: dict[str, str] = {}
        try:
            _activate(adapter, actor, tell, stands, override)
        except Refused as refused:
            refuse(adapter, actor, refused, stands)
            raise ActivationFailed(refused.code, refused.details) from None
    return adapter


def _activate(
    adapter: LoraAdapter, actor: AbstractBaseUser | None, tell: Progress, stands: dict[str, str], override: str
) -> None:
    """`stands` hears what a refusal of this moment depends on, where no scan would find it, see `outcome._stands`."""
    roots = real_roots()
    candidate = look_again(adapter, roots)
    active = adapter.status == Status.ACTIVE and adapter.digest != ""
    fault = store.fault(adapter.digest) if active else None
    served = active and fault is None
    if candidate is None:
        if served or (active and _mended(adapter, actor)):
            return  # its training folder is gone, what is served is not
        raise Refused("files_missing")
    if served and not adapter.update_available and adapter.signature == files_hash(candidate):
        _promote_again(adapter)
        return
    prepared = prepare(adapter, candidate, roots, tell, stands)
    digest, verdict, prompting = prepared.digest, prepared.verdict, prepared.prompting
    # What is served already does not become active: its copy is made again.
    despite = {} if active and digest == adapter.digest else _despite(adapter, prepared, override)
    report = _promote(adapter.name, digest, prompting.get("sha256", ""), verdict.base)
    tell(1.0)  # that may have taken minutes: whoever has the lock now goes on instead
    again = look_again(adapter, roots)
    if again is None or again.core_signature != candidate.core_signature:
        released(digest, "failed")
        raise Refused("changed_meanwhile")
    before = adapter.digest
    with transaction.atomic():
        describe(adapter, candidate, verdict, replaces=True)
        offers.note(adapter, verdict)
        if not adapter.mark_active(actor, digest, prompting, report, despite):
            raise BusyError
    notes.write(digest, store.state(digest))
    if fault is not None and before == digest:
        record_mended(adapter, actor, fault)
    if before and before != digest:
        released(before, "replaced")


def prepare(
    adapter: LoraAdapter, candidate: AdapterFolder, roots: tuple[str, ...], tell: Progress, stands: dict[str, str]
) -> Prepared:
    """Verify the folder of an adapter, whose lock is held, and copy it into the store. Raises Refused."""
    verdict = _verdict(adapter, candidate, roots)
    if verdict.base is None or not is_current(verdict.base):
        # A base that no scan has seen, or that has changed since: the only reason to look at all of them.
        refresh()
        adapter.refresh_from_db(fields=["base"])
        verdict = _verdict(adapter, candidate, roots)
    by_names = verdict.code.startswith("tensors_") or verdict.plan is not None
    if by_names and verdict.base is not None and support.check(verdict.base):
        verdict = _verdict(adapter, candidate, roots)  # by the names of the running model
    if verdict.code:
        if not verdict.incomplete:
            describe(adapter, candidate, verdict)
            offers.note(adapter, verdict)
        raise Refused(verdict.code, **verdict.details)
    stands["files"] = candidate.core_signature
    said = read_prompting(roots, candidate.path, candidate.stats, folder_of(verdict.base))
    prompting = _prompting(said, verdict.base)
    digest = _copy(adapter, candidate, verdict, roots, said, tell, stands)
    return Prepared(digest, verdict, prompting)


def _despite(adapter: LoraAdapter, prepared: Prepared, override: str) -> dict[str, Any]:
    """What history keeps of a gate's objection that `override` says no to; {} where no gate objects.

    Raises PassingRefusal where one objects and no reason is stated: the adapter stays as it was.
    """
    objection = hooks.objection(adapter.pk, prepared.digest, prepared.base.key if prepared.base else "")
    if objection is None:
        return {}
    if not override:
        raise PassingRefusal(objection.code, **objection.details)
    return {**objection.details, "objection": objection.code, "stated": override}


def _promote(name: str, digest: str, prompting: str, base: BaseModel | None) -> dict[str, Any]:
    """Have the running side take a copy; its report. Raises Refused, and PassingRefusal where that says nothing of the
    adapter."""
    if base is None:
        return {}
    path = str(store.entry(digest))
    stored = hooks.Stored(digest, path, name, prompting, base.key, base.path, base.name, base.signature)
    found = hooks.promote(stored)
    if found.code:
        raise (Refused if found.lasting else PassingRefusal)(found.code, **found.details)
    return dict(found.report)


def _promote_again(adapter: LoraAdapter) -> None:
    """What is served already is seen to as well: it may have been activated before there was a fleet. Raises as
    `_promote` does."""
    report = _promote(adapter.name, adapter.digest, adapter.prompting.get("sha256", ""), adapter.base)
    if report:
        LoraAdapter.objects.filter(pk=adapter.pk, digest=adapter.digest).update(promotion=report)
        adapter.promotion = report


def _verdict(adapter: LoraAdapter, candidate: AdapterFolder, roots: tuple[str, ...]) -> ValidationResult:
    chosen = adapter.base if adapter.base_by_hand else None
    accepted = repairs.accepted_of(repair_of(adapter))
    return validate(candidate, Matcher(), roots, settings.SCAN_SETTLE_SECONDS, chosen, accepted)


def _copy(
    adapter: LoraAdapter, candidate: AdapterFolder, verdict: ValidationResult, roots: tuple[str, ...], said: bytes,
    tell: Progress, stands: dict[str, str],
) -> str:  # fmt: skip
    with open_source(candidate, roots, verdict.base, repairs.accepted_of(repair_of(adapter))) as source:
        # The header is read again from the very file that is copied: it may not be the one that was validated.
        verdict.header = source.header
        if source.plan is not None:
            verdict.plan, verdict.config = source.plan, adapter_config.check(parse_json(source.config, CONFIG))
            verdict.remark("repaired")
        if "unwrapped" in source.parts[0].header.metadata:
            verdict.remark("weights_unwrapped")
        if verdict.base is not None:
            stands["base_key"] = verdict.base.key
        try:
            assert_fit(verdict, source.file, thorough=True)
            check_tokens(verdict, json.loads(said).get("added_tokens", []) if said else [])
        except OSError as error:
            raise Refused("unreadable", file=WEIGHTS, reason=os.strerror(error.errno or 0)) from None
        except Refused as refused:
            raise _offered(adapter, verdict, source, refused) from None
        stands.pop("base_key", None)
        return store.put(source.config, source.file, source.header, tell, "", said, verdict.changed)


def _offered(adapter: LoraAdapter, verdict: ValidationResult, source: Source, refused: Refused) -> Refused:
    """What to say of converted weights that were refused: only now are their names known."""
    if source.plan is not None:
        return refused
    try:
        found = repairs.find(source.raw, source.parts, verdict.base, refused)
        if found is None:
            return refused
        verdict.plan = found[0]
        repairs.check_dropped(found[0], source.files, source.parts, found[1], thorough=True)
        verdict.config, verdict.header, file = repairs.read_plan(found[0], source.files)
        assert_fit(verdict, file, thorough=True)  # type: ignore[arg-type]
    except Refused as other:
        return other
    offers.note(adapter, verdict, source.parts[0].header)
    return repairs.offer(verdict.plan)


def _prompting(said: bytes, base: BaseModel | None) -> dict[str, Any]:
    """What the row keeps of the adapter's own prompting: for pages, and for the engine to know the file by.

    Raises Refused template_unusable where the running side finds that its template is none, or never ends.
    """
    if not said:
        return {}
    found = json.loads(said)
    template = found.get("chat_template", "")
    reason = ""
    if template:
        with suppress(OSError):  # nobody to ask: the engine renders within the same bounds
            reason = hooks.template_fault(template, found.get("special_tokens", {}))
    if reason:
        raise Refused("template_unusable", reason=reason)
    same = bool(template) and base is not None and template == template_of(base.path)
    return {
        "sha256": digest_of(said),
        "chat_template": ("same" if same else "own") if template else "",
        "end_tokens": [*found.get("end_tokens", []), *map(str, found.get("end_ids", []))],
        "defaults": found.get("defaults", {}),
        "added_tokens": len(found.get("added_tokens", [])),
    }


def refuse(adapter: LoraAdapter, actor: AbstractBaseUser | None, refused: Refused, stands: dict[str, str]) -> None:
    """Write a refusal down: as a failure, or beside the copy that is still served, or as "wait"."""
    if adapter.status == Status.ACTIVE and adapter.digest and not _mended(adapter, actor):
        return  # failed for its copy, which is the graver reason
    if refused.code == "incomplete":
        LoraAdapter.objects.filter(pk=adapter.pk).update(incomplete=True, updated_at=timezone.now())
        return
    if isinstance(refused, PassingRefusal) or refused.code in {
        "files_missing",
        "changed_meanwhile",
        "store_full",
        "store_unwritable",
    }:
        adapter.record(EventKind.REFUSED, actor, refused.code, refused.details, adapter.status, adapter.status)
        return
    if adapter.status == Status.ACTIVE and adapter.digest:
        adapter.record(EventKind.REFUSED, actor, refused.code, refused.details, adapter.status, adapter.status)
        return
    adapter.mark_failed(actor, refused.code, {**refused.details, **stands})


def _mended(adapter: LoraAdapter, actor: AbstractBaseUser | None) -> bool:
    """See to the copy that an active adapter, whose lock is held, is served from. False where it has failed for it."""
    outcome = mend(adapter.digest, actor, held=adapter.pk)
    if outcome is Outcome.BUSY:
        raise BusyError
    adapter.refresh_from_db()
    return outcome is not Outcome.FAILED


def deactivate(adapter_id: int, actor: AbstractBaseUser | None, reason: str = "") -> LoraAdapter:
    """Stop serving an adapter; nothing to do is a success. Raises DoesNotExist, BusyError."""
    adapter = LoraAdapter.objects.select_related("base").get(pk=adapter_id)
    with HeldLease(adapter_lock(adapter_id)):
        adapter.refresh_from_db()
        digest = adapter.digest
        if adapter.status == Status.ACTIVE:
            if not adapter.mark_inactive(actor, reason):
                raise BusyError
            released(digest, "deactivated")
    return adapter
