"""What all that changes a served copy has in common: a lock, a word to the running side, a line of history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters import hooks, store
from adapters.models import EventKind, LoraAdapter, Status

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

CLEANING = "store"  # the lease of cleaning.py


def released(digest: str, reason: str) -> None:
    """Tell the running side that `digest` is not served any more, unless another adapter has the same content."""
    if digest and not LoraAdapter.objects.active().filter(digest=digest).exists():
        hooks.released(digest, reason)


def record_mended(adapter: LoraAdapter, actor: AbstractBaseUser | None, fault: store.Fault) -> None:
    """History: the copy that this active adapter is served from was bad, and has been made again."""
    details = {"digest": adapter.digest, "reason": fault.reason}
    adapter.record(EventKind.ACTIVATED, actor, "store_mended", details, Status.ACTIVE, Status.ACTIVE)
