"""A stored copy that is not what its name says: made again from a training folder that still has its content, else its
adapters fail and history says so."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING

from adapters import store
from adapters.bases.registry import folder_of
from adapters.failures import BusyError, Refused
from adapters.files import store_folder
from adapters.leases import HeldLease, adapter_lock, is_held
from adapters.models import LoraAdapter, Status, repair_of
from adapters.training.prompting import read_prompting
from adapters.validation import repairs
from adapters.validation.copies import judge

from . import notes
from .served import CLEANING, record_mended, released
from .sources import look_again, open_source, real_roots

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

logger = logging.getLogger(__name__)


class Outcome(StrEnum):
    SOUND = "sound"  # nothing is wrong with it
    UNUSED = "unused"  # it is bad, and no active adapter is served from it
    MENDED = "mended"  # it was bad and has been made again
    FAILED = "failed"  # it is bad, and its adapters are failed now
    BUSY = "busy"  # it is bad, and somebody else is at one of its adapters: ask again


def mend(
    digest: str,
    actor: AbstractBaseUser | None = None,
    held: int | None = None,
    tell: Callable[[int], None] | None = None,
) -> Outcome:
    """Read a copy that active adapters are served from, and see to it that it is sound or that none of them is active.

    `held`: id of an adapter whose lock the caller holds. `tell` hears the bytes of each piece that was read. Raises
    OSError where this process has no means to read a file.
    """
    before = store.state(digest)
    fault = store.fault(digest, tell)
    if fault is None:
        notes.write(digest, before)
        return Outcome.SOUND
    concerned = list(LoraAdapter.objects.active().filter(digest=digest).select_related("base").order_by("pk"))
    if not concerned:
        return Outcome.UNUSED
    logger.error("the stored copy %s is bad: %s", digest, fault.reason)
    busy = False
    for adapter in concerned:
        try:
            with _locked(adapter, held) as hold:
                if _make_again(adapter, digest, hold):
                    logger.warning("the stored copy %s was made again from %s", digest, adapter)
                    for each in concerned:
                        record_mended(each, actor, fault)
                    return Outcome.MENDED
        except BusyError:
            busy = True
    if busy:
        return Outcome.BUSY  # an activation reads what it finds in the store; a deletion leaves one adapter less
    return _fail(concerned, digest, actor, fault, held)


def _locked(adapter: LoraAdapter, held: int | None) -> AbstractContextManager[HeldLease | None]:
    return nullcontext() if adapter.pk == held else HeldLease(adapter_lock(adapter.pk))


def _make_again(adapter: LoraAdapter, digest: str, hold: HeldLease | None) -> bool:
    """Put the copy into the store anew from this adapter's folder. False where its content is another now."""
    if is_held(CLEANING):
        raise BusyError
    roots = real_roots()
    candidate = look_again(adapter, roots)
    if candidate is None:
        return False

    def tell(fraction: float) -> None:
        if hold is not None:
            hold.touch()

    for full in (False, True):
        try:
            with open_source(candidate, roots, adapter.base, repairs.accepted_of(repair_of(adapter))) as source:
                said = read_prompting(roots, candidate.path, candidate.stats, folder_of(adapter.base))
                kept: frozenset[str] = frozenset()
                if adapter.base is not None:
                    kept = judge(source.file, source.header, adapter.base, True).changed
                store.put(source.config, source.file, source.header, tell, digest, said, kept)
        except Refused as refused:
            if refused.code == "store_full" and not full:
                store_folder.discard(digest)  # the bad copy is worth nothing, the room that it takes is
                continue
            logger.warning("the stored copy %s cannot be made again from %s: %s", digest, adapter, refused.code)
            return False
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            logger.warning("the stored copy %s cannot be made again from %s: %s", digest, adapter, reason)
            return False
        notes.write(digest, store.state(digest))
        return True
    return False


def _fail(
    concerned: list[LoraAdapter], digest: str, actor: AbstractBaseUser | None, fault: store.Fault, held: int | None
) -> Outcome:
    busy = False
    for adapter in concerned:
        try:
            with _locked(adapter, held):
                adapter.refresh_from_db()
                if adapter.status == Status.ACTIVE and adapter.digest == digest and store.fault(digest) is not None:
                    busy |= not adapter.mark_failed(actor, fault.code, {"reason": fault.reason})
        except LoraAdapter.DoesNotExist:
            pass  # forgotten meanwhile
        except BusyError:
            busy = True
    if LoraAdapter.objects.active().filter(digest=digest).exists():
        return Outcome.BUSY if busy or store.fault(digest) is not None else Outcome.MENDED
    released(digest, "failed")
    return Outcome.FAILED
