"""What processes that were killed left in the registry, put right when a portal starts."""

from __future__ import annotations

import logging
from pathlib import Path

from django.conf import settings

from adapters.discovery.scanning import end_killed_scans
from adapters.files import partials

from . import leases

logger = logging.getLogger(__name__)


def recover() -> None:
    """End scans that nobody carries on, free locks that nobody holds, remove copies that nobody finishes.

    Nothing of a process that lives, here or elsewhere, is touched. Raises DatabaseError.
    """
    scans, locks = end_killed_scans(), leases.free_dead()
    if scans or locks:
        logger.warning("left by processes that were killed: %d scans ended, %d locks freed", scans, locks)
    sweep_store()


def sweep_store() -> list[Path]:
    """Remove from the store what interrupted activations and conversions left; returns it."""
    removed = partials.sweep(Path(settings.STORE_DIR))
    for path in removed:
        logger.warning("removed from the store, its writer is gone: %s", path.name)
    return removed
