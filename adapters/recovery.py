"""What processes that were killed left in the registry, put right when a portal starts."""

from __future__ import annotations

import logging
from contextlib import suppress

from adapters.discovery.scanning import end_killed_scans
from adapters.files import partials, store_folder
from adapters.lifecycle.cleaning import sweep_published

from . import jobs, leases
from .exports import merging, shelf
from .hub import importing
from .models import HubImport, Merge
from .uploads import arriving

logger = logging.getLogger(__name__)


def recover() -> None:
    """End scans that nobody carries on, free locks that nobody holds, remove copies that nobody finishes.

    Nothing of a process that lives, here or elsewhere, is touched. Raises DatabaseError.
    """
    scans, locks = end_killed_scans(), leases.free_dead()
    if scans or locks:
        logger.warning("left by processes that were killed: %d scans ended, %d locks freed", scans, locks)
    sweep_store()
    with suppress(OSError):
        for name in arriving.sweep_all():
            logger.warning("removed, nobody has continued this upload for a day: %s", name)
    if ended := jobs.end_interrupted(Merge, merging.INTERRUPTED):
        logger.warning("merges ended that nobody carries on: %d", ended)
    if ended := jobs.end_interrupted(HubImport, importing.INTERRUPTED):
        logger.warning("imports ended that nobody carries on: %d", ended)
    with suppress(OSError):
        for name in shelf.sweep():
            logger.warning("removed from the merged models: %s", name)


def sweep_store() -> None:
    """Remove from the store, and from what is published, what interrupted activations and conversions left."""
    with suppress(OSError), store_folder.opened() as shelf:
        for name in partials.sweep(shelf):
            logger.warning("removed from the store, its writer is gone: %s", name)
    with suppress(OSError):
        for copy in sweep_published():
            logger.warning("removed from what is published, nobody wants it: %s", copy.name)
