"""What an interrupted deletion leaves: folders named `.deleted-<adapter's id>-<random>`, which scans pass over.

They lie where the adapter's folder lay, or in it where other adapters below it stay. They are removed by the next
deletion at the same place, and all of them by `manage.py clean_store`.
"""

from __future__ import annotations

import logging
import os
import secrets
from dataclasses import dataclass

from django.conf import settings

from adapters.failures import BusyError
from adapters.formats.files import inside
from adapters.leases import HeldLease, adapter_lock
from adapters.places import Place, innermost, names_below, open_root
from adapters.training.layout import DELETED, Walk

from . import removal
from .removal import Step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leftover:
    label: str  # its path from the root's own name on
    size_bytes: int


def new_name(owner: int) -> str:
    return f".deleted-{owner}-{secrets.token_hex(6)}"


def owner_of(name: str) -> int | None:
    """Id of the adapter that was being deleted; None for a name that does not tell it."""
    match = DELETED.match(name)
    return int(match.group(1)) if match is not None and match.group(1) else None


def remaining(folder: Place) -> list[str]:
    return [name for name, is_folder in folder.entries() if is_folder and DELETED.match(name)]


def clear(folder: Place, mine: int, step: Step) -> None:
    """Remove the leftovers in a folder, also those of the adapter `mine`, whose lock the caller holds.

    Those of others stay where somebody is at them, or they resist. Raises OSError for one of `mine`.
    """
    for name in remaining(folder):
        try:
            with folder.below(name) as held:
                if owner_of(name) == mine:
                    removal.remove(held, step)
                else:
                    _remove(held)
        except BusyError:
            continue
        except OSError:
            if owner_of(name) == mine:
                raise
            logger.warning("%s cannot be removed", name, exc_info=True)


def clean_roots(dry_run: bool = False) -> list[Leftover]:
    """Remove the leftovers in all roots that no deletion is at; returns them. What resists is logged and stays."""
    roots = tuple(dict.fromkeys(os.path.realpath(root) for root in settings.LORA_ROOTS))
    walk = Walk(roots)
    for root in roots:
        if not any(root != other and inside(root, (other,)) for other in roots):  # else found below the other one
            for _ in walk.candidates(root):
                pass
    removed = []
    for path in walk.leftovers:
        root = innermost(path, roots) or ""
        way = names_below(path, root)
        label = os.path.join(os.path.basename(root), *way)
        try:
            with open_root(root) as top, top.below(*way) as held:
                size = removal.size(held)
                if not dry_run:
                    _remove(held)
        except BusyError:
            continue
        except OSError:
            logger.warning("%s cannot be removed", label, exc_info=True)
            continue
        removed.append(Leftover(label, size))
    return removed


def _remove(held: Place) -> None:
    """Raises BusyError where the deletion that made it still runs, OSError."""
    owner = owner_of(held.name)
    if owner is None:
        removal.remove(held)
        return
    with HeldLease(adapter_lock(owner)) as hold:
        removal.remove(held, hold.touch)
