"""Removing stored copies that no adapter is served from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from adapters import store
from adapters.failures import Busy
from adapters.files import partials, store_folder
from adapters.leases import HeldLease
from adapters.models import Lease, LoraAdapter
from adapters.processes import is_dead

from .served import CLEANING


@dataclass(frozen=True)
class Cleaned:
    name: str
    size_bytes: int


def references() -> dict[str, int]:
    """digest -> how many adapters are served from it."""
    counts: dict[str, int] = {}
    for digest in LoraAdapter.objects.exclude(digest="").values_list("digest", flat=True):
        counts[digest] = counts.get(digest, 0) + 1
    return counts


def clean(dry_run: bool = False) -> list[Cleaned]:
    """Remove copies without a reference and what interrupted activations left. Raises Busy during an activation.

    An activation looks for this lease after it took its own, this looks for theirs after it took its own: one of
    the two always sees the other.
    """
    with HeldLease(CLEANING) as hold:
        if _activating():
            raise Busy
        used = references()
        removed = []
        for path in _entries():
            hold.touch()
            if path.name in used or not _is_removable(path):
                continue
            removed.append(Cleaned(path.name, store_folder.size(path.name)))
            if not dry_run:
                store_folder.remove(path.name)
    return removed


def _activating() -> bool:
    rows = Lease.objects.filter(name__startswith="adapter:", expires_at__gt=timezone.now())
    return any(not is_dead(holder) for holder in rows.values_list("holder", flat=True))


def _entries() -> list[Path]:
    root = Path(settings.STORE_DIR)
    return sorted(path for path in root.iterdir() if path.is_dir() or path.is_symlink()) if root.is_dir() else []


def _is_removable(path: Path) -> bool:
    """Only what this program made: digests, and unfinished ones that nobody fills any more."""
    if store.DIGEST.match(path.name):
        return True
    # A link is not ours: we make folders, and nobody fills what a link leads to.
    return path.name.startswith(partials.PREFIX) and (path.is_symlink() or partials.is_abandoned(path))
