"""Looking after the copies that are served: often at what the file system says of them, seldom at every byte."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings

from adapters import hooks, store
from adapters.containment import contained
from adapters.models import LoraAdapter

from . import notes
from .mending import Outcome, mend

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


TRIED = 5  # copies, until one could be read


def served() -> list[str]:
    """Digests of all copies that active adapters are served from."""
    return list(LoraAdapter.objects.active().order_by("digest").values_list("digest", flat=True).distinct())


def look(actor: AbstractBaseUser | None = None, read: bool = False) -> dict[str, Outcome]:
    """Compare every served copy with the note that was made when it was last read, and mend those that have changed.

    With `read`, read one more as well: the one that was read longest ago, where that is STORE_HASH_INTERVAL or more, so
    that all are read in turn. Returns the outcomes of what was read. What goes wrong with one copy, or with reading at
    all, is logged.
    """
    found: dict[str, Outcome] = {}
    waiting: list[tuple[float, str]] = []
    for digest in served():
        with contained("the stored copy %s could not be looked at", digest):
            note, state = notes.read(digest), store.state(digest)
            if state is None or (note.state and note.state != state):
                found[digest] = mend(digest, actor)
            else:
                waiting.append((note.when, digest))
    due = time.time() - settings.STORE_HASH_INTERVAL
    for when, digest in sorted(waiting)[:TRIED] if read and settings.STORE_HASH_INTERVAL else ():
        if when > due:
            break
        with contained("the stored copy %s could not be read", digest):
            found[digest] = mend(digest, actor)
            break  # else the next one: what leads to an error each time must not keep all others from being read
    return found


def check_published(
    dry_run: bool = False, thorough: bool = True, tell: Callable[[int], None] = lambda count: None
) -> list[hooks.PublishedFault]:
    """What is wrong with what the running side has of served copies elsewhere, see `hooks.RunningSide.check`."""
    names: dict[str, list[str]] = {}
    for digest, name in LoraAdapter.objects.active().order_by("digest", "name").values_list("digest", "name"):
        names.setdefault(digest, []).append(name)
    copies = [hooks.ServedCopy(one, str(store.entry(one)), ", ".join(its)) for one, its in names.items()]
    return hooks.check(copies, dry_run, thorough, tell)


def _names(digest: str) -> list[str]:
    rows = LoraAdapter.objects.active().filter(digest=digest).order_by("name")
    return list(rows.values_list("name", flat=True))


@dataclass(frozen=True)
class Checked:
    """One copy that was read. `outcome` is None where only the fault was asked for."""

    digest: str
    names: list[str]
    fault: store.Fault | None
    outcome: Outcome | None

    @property
    def good(self) -> bool:
        return self.fault is None or self.outcome in (Outcome.MENDED, Outcome.SOUND, Outcome.UNUSED)


def check(
    actor: AbstractBaseUser | None,
    dry_run: bool = False,
    tell: Callable[[int, int, int], None] | None = None,
) -> list[Checked]:
    """Read every served copy to its end, one after another, and mend those that are bad, unless `dry_run`.

    `tell` hears (copies done, copies in all, bytes read so far). Raises OSError where this process cannot read files.
    """
    digests = served()
    done = size = 0

    def heard(count: int) -> None:
        nonlocal size
        size += count
        if tell is not None:
            tell(done, len(digests), size)

    found = []
    for digest in digests:
        names = _names(digest)
        before = store.state(digest)
        fault = store.fault(digest, heard)
        outcome = None
        if fault is not None and not dry_run:
            outcome = mend(digest, actor)
        elif fault is None:
            notes.write(digest, before)
        found.append(Checked(digest, names, fault, outcome))
        done += 1
        heard(0)
    notes.keep(digests)
    return found
