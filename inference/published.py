"""What is published to the fleet, looked after for the registry: withdrawn, swept, compared with the stored copies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from django.conf import settings

from adapters.containment import contained
from adapters.hooks import PublishedFault, ServedCopy, Tell
from adapters.lifecycle import notes
from adapters.models import LoraAdapter
from inference.backends.fleet import sweeping
from inference.backends.fleet.shelf import Shelf

from .manager import current_manager, fleet_options
from .uses import used_elsewhere

logger = logging.getLogger(__name__)

PAUSE = 0.2  # seconds between looks at who uses an adapter


def used(digest: str) -> bool:
    """Whether a portal has requests running with it. Raises DatabaseError."""
    manager = current_manager()
    return (manager is not None and not manager.backend.wait_unused(digest, 0.0)) or used_elsewhere(digest)


def wait_unused(digest: str, timeout: float) -> bool:
    """Block until no portal uses it, at most `timeout` seconds; false where one still does. Raises DatabaseError."""
    until = time.monotonic() + timeout
    while used(digest):
        if time.monotonic() >= until:
            return False
        time.sleep(PAUSE)
    return True


def withdraw(digest: str) -> None:
    """At once, or not at all: where it is in use, the portals come by later. Never raises what the fleet does: the
    adapter is out of service already, and nobody asks for it any more."""
    try:
        sweeping.withdraw(fleet_options(), digest, partial(used, digest))
    except OSError as error:
        logger.error("%s could not be withdrawn from the fleet: %s", digest, error)


def sweep(unwanted: Callable[[str], bool], dry_run: bool) -> list[tuple[str, int]]:
    """See `hooks.RunningSide.sweep`."""
    return sweeping.sweep(fleet_options(), unwanted, used, dry_run)


def check(copies: Sequence[ServedCopy], dry_run: bool, thorough: bool, tell: Tell) -> list[PublishedFault]:
    """See `hooks.RunningSide.check`."""
    shelf = Shelf(settings.FLEET_DIR)
    found = []
    for copy in copies if thorough else _due(shelf, copies):
        with nullcontext() if thorough else contained("what is published of %s could not be seen", copy.digest):
            root = _root(copy.digest)
            before = shelf.look(copy.digest)
            fault = sweeping.check(fleet_options(), copy.digest, Path(copy.path), copy.name, root, dry_run, tell)
            if fault is None:
                notes.write(copy.digest, before, notes.PUBLISHED)
            else:
                found.append(PublishedFault(copy.digest, copy.name, fault.reason, fault.mended))
    if thorough:
        notes.keep([copy.digest for copy in copies], notes.PUBLISHED)
    return found


def _due(shelf: Shelf, copies: Sequence[ServedCopy]) -> list[ServedCopy]:
    """What has changed since it was read, and the one that was read longest ago where that is due."""
    changed, waiting = [], []
    for copy in copies:
        note, look = notes.read(copy.digest, notes.PUBLISHED), shelf.look(copy.digest)
        if look is None or (note.state and note.state != look):
            changed.append(copy)
        else:
            waiting.append((note.when, copy.digest, copy))
    interval = settings.STORE_HASH_INTERVAL
    oldest = min(waiting)[2:] if waiting and interval and min(waiting)[0] <= time.time() - interval else ()
    return [*changed, *oldest]


def _root(digest: str) -> str:
    """As whose adapter it was published last."""
    reports = LoraAdapter.objects.active().filter(digest=digest).values_list("promotion", flat=True)
    return next((str(report["root"]) for report in reports if report.get("root")), "")
