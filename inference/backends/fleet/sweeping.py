"""Looking after FLEET_DIR: what nobody wants any more goes, what is damaged is put right. Any thread, any process.

A folder that is to go: no adapter is served from it or about to be, and no portal has a request running with it. Its
state is taken before anybody is asked, so that one which is published again meanwhile stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from django.utils.translation import gettext_noop

from adapters.files import entries, partials
from inference.engine.errors import EngineError

from . import probe
from .replies import forget
from .resources import FleetOptions
from .shelf import Shelf, published_root
from .wire import Wire

logger = logging.getLogger(__name__)

MISSING = gettext_noop("the copy is missing")


def withdraw(options: FleetOptions, digest: str, used: Callable[[], bool]) -> bool:
    """Take an adapter out of the fleet, its folder and what replicas have of it; false where it is in use, or is not
    there. Raises OSError."""
    shelf = Shelf(options.folder)
    state = shelf.state(digest)
    if state is None or used() or not shelf.withdraw(digest, state, used):
        return False
    asyncio.run(_forgotten(options, digest))
    return True


async def _forgotten(options: FleetOptions, digest: str) -> None:
    wire = Wire(options.key, probe.PATIENCE, 4)
    try:
        await forget(digest, options.addresses, wire)
    finally:
        await wire.close()


Swept = list[tuple[str, int]]  # names and bytes


def sweep(options: FleetOptions, unwanted: Callable[[str], bool], used: Callable[[str], bool], dry_run: bool) -> Swept:
    """Remove folders that nobody wants, and what killed processes left unfinished. What resists is logged and stays.

    Raises OSError where the folder cannot be read, and what `unwanted` and `used` raise.
    """
    shelf = Shelf(options.folder)
    found: Swept = []
    for digest in shelf.names():
        state = shelf.state(digest)
        if state is None or not unwanted(digest) or used(digest):
            continue
        try:
            with shelf.opened() as place:
                size = entries.size(place, digest)
            if not dry_run:
                if not shelf.withdraw(digest, state, lambda digest=digest: used(digest)):  # type: ignore[misc]
                    continue
                asyncio.run(_forgotten(options, digest))
        except OSError as error:
            logger.warning("%s cannot be removed from the fleet's folder: %s", digest, error)
            continue
        found.append((digest, size))
    return found + _unfinished(shelf, dry_run)


def _unfinished(shelf: Shelf, dry_run: bool) -> Swept:
    try:
        place = shelf.opened()
    except FileNotFoundError:
        return []
    with place:
        names = [name for name, is_folder in place.entries() if is_folder and name.startswith(partials.PREFIX)]
        sizes = {name: entries.size(place, name) for name in names}
        gone = [name for name in names if partials.is_abandoned(place, name)] if dry_run else partials.sweep(place)
        return [(name, sizes.get(name, 0)) for name in gone]


@dataclass(frozen=True)
class Fault:
    """What is wrong with what is published. `reason`: to be translated when it is shown."""

    reason: str
    mended: bool


def check(
    options: FleetOptions, digest: str, source: Path, name: str, root: str, dry_run: bool,
    tell: Callable[[int], None] = lambda count: None,
) -> Fault | None:  # fmt: skip
    """Read a published adapter to its end, and publish it again where it is not what its name says.

    `root`: for which it was published last, "" where that is not known. Where the stored copy cannot be read, nothing
    is said: others look after that.
    """
    shelf = Shelf(options.folder)
    there = shelf.state(digest) is not None
    root = published_root(options.folder / digest) or root
    if not there and not root:
        return None  # activated by the engine here: it is published when it is asked first
    try:
        reason = shelf.fault(digest, source, tell) if there else MISSING
    except OSError:
        return None
    if not reason or dry_run:
        return Fault(reason, False) if reason else None
    logger.error("what is published of %s is bad: %s", name, reason)
    try:
        if root:
            shelf.publish(digest, source, name, root)
        else:
            shelf.withdraw(digest)
    except (EngineError, OSError) as error:
        logger.error("%s cannot be published again: %s", name, error)
        return Fault(reason, False)
    return Fault(reason, True)
