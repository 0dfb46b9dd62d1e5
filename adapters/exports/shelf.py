"""`EXPORTS_DIR`: a folder for each merged model that is there to be fetched, for EXPORT_KEEP_HOURS."""

from __future__ import annotations

import logging
import os
import re
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db.models import Sum
from django.utils import timezone

from adapters.files import partials, removal
from adapters.models import JobState, Merge
from adapters.places import Place, open_root

logger = logging.getLogger(__name__)

FOLDER = re.compile(r"[0-9a-f]{32}\Z")
FORGOTTEN = 3600.0  # seconds, after which a folder that no row knows goes


def made() -> Place:
    """The folder, made where it is missing. Raises OSError."""
    Path(settings.EXPORTS_DIR).mkdir(parents=True, exist_ok=True)
    return open_root(os.path.realpath(settings.EXPORTS_DIR))


def used() -> int:
    """Bytes of all merged models that are kept."""
    return Merge.objects.filter(state=JobState.DONE).aggregate(n=Sum("size_bytes"))["n"] or 0


def remove(merge: Merge) -> None:
    """The row goes first: nobody finds half a folder. Raises OSError."""
    folder = merge.folder
    merge.delete()
    with suppress(FileNotFoundError), made() as shelf, shelf.below(folder) as place:
        removal.remove(place)


def sweep() -> list[str]:
    """Remove merged models whose time is over, and what killed processes left; returns the names. Raises OSError where
    the folder cannot be read."""
    removed = []
    if settings.EXPORT_KEEP_HOURS:
        until = timezone.now() - timedelta(hours=settings.EXPORT_KEEP_HOURS)
        for merge in Merge.objects.exclude(state=JobState.RUNNING).filter(ended_at__lt=until):
            removed.append(merge.folder)
            remove(merge)
    if not os.path.isdir(settings.EXPORTS_DIR):
        return removed
    with made() as shelf:
        removed += partials.sweep(shelf)
        found = [name for name, is_folder in shelf.entries() if is_folder and FOLDER.match(name)]
        known = set(Merge.objects.filter(folder__in=found).values_list("folder", flat=True))
        for name in found:
            with suppress(OSError):
                info = shelf.stat(name)
                if name in known or info is None or time.time() - info.st_mtime < FORGOTTEN:
                    continue
                with shelf.below(name) as place:
                    removal.remove(place)
                removed.append(name)
    return removed
