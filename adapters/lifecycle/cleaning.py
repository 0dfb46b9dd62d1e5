"""Removing stored copies that no adapter is served from."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from django.utils import timezone

from adapters import hooks, store
from adapters.failures import BusyError
from adapters.files import partials, store_folder
from adapters.leases import HeldLease
from adapters.models import Lease, LoraAdapter
from adapters.places import Place
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
    """Remove copies without a reference and what interrupted activations left. Raises BusyError during an activation.

    An activation looks for this lease after it took its own, this looks for theirs after it took its own: one of
    the two always sees the other.
    """
    with HeldLease(CLEANING) as hold:
        if _activating():
            raise BusyError
        used = references().keys() | hooks.tried()
        removed = []
        try:
            shelf = store_folder.opened()
        except FileNotFoundError:
            return []
        with shelf:
            for name, is_folder in sorted(shelf.entries()):
                hold.touch()
                if name in used or not _is_removable(shelf, name, is_folder):
                    continue
                removed.append(Cleaned(name, store_folder.size(name)))
                if not dry_run:
                    store_folder.remove(name)
    return removed


def discard(digest: str) -> None:
    """Remove one copy, unless an adapter is served from it or it is being tried. Raises BusyError, OSError."""
    with HeldLease(CLEANING):
        if not _activating() and digest not in references() and not _tried(digest):
            store_folder.remove(digest)


def sweep_published(dry_run: bool = False) -> list[Cleaned]:
    """As `clean`, of what the running side has put elsewhere, with the same care for activations; holds nobody up.

    Raises OSError.
    """
    active = set(LoraAdapter.objects.active().values_list("digest", flat=True)) | hooks.tried()

    def unwanted(digest: str) -> bool:
        return digest not in active and _unwanted(digest)

    return [Cleaned(name, size) for name, size in hooks.sweep(unwanted, dry_run)]


def _unwanted(digest: str) -> bool:
    """An activation or a trial that runs may have put it there just now. One that has ended is seen by what it has
    activated, or tries, so this is asked second."""
    return not _activating() and not LoraAdapter.objects.active().filter(digest=digest).exists() and not _tried(digest)


def _tried(digest: str) -> bool:
    return digest in hooks.tried()


def _activating() -> bool:
    rows = Lease.objects.filter(name__startswith="adapter:", expires_at__gt=timezone.now())
    return any(not is_dead(holder) for holder in rows.values_list("holder", flat=True))


def _is_removable(shelf: Place, name: str, is_folder: bool) -> bool:
    """Only what this program made: digests, and unfinished ones that nobody fills any more."""
    if not is_folder:  # a link is not ours: we make folders, and nobody fills what a link leads to
        found = shelf.stat(name)
        if found is None or not stat.S_ISLNK(found.st_mode):
            return False
    if store.DIGEST.match(name):
        return True
    return name.startswith(partials.PREFIX) and (not is_folder or partials.is_abandoned(shelf, name))
