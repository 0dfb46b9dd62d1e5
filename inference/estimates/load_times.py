"""How long loads took, kept in the database: a base is loaded too seldom for each process to learn it by itself."""

from __future__ import annotations

import logging

from django.db import DatabaseError, connection

from inference.models import LoadTime

from .wait_estimates import KEPT, WaitEstimates

logger = logging.getLogger(__name__)
MOST_READ = 5000


def recall(expectations: WaitEstimates) -> None:
    """Hand over what earlier processes measured. Runs on a thread of its own."""
    try:
        newest = LoadTime.objects.order_by("-pk").values_list("kind", "key", "seconds")[:MOST_READ]
        for kind, key, seconds in reversed(list(newest)):
            expectations.remember(kind, key, seconds)
    except DatabaseError as error:
        logger.warning("earlier load times cannot be read: %s", error.__class__.__name__)
    finally:
        connection.close()  # own threads close their connections


def keep(kind: str, key: str, seconds: float) -> None:
    """Write one down, and forget those that are too old to count. Runs on a thread of its own."""
    try:
        rows = LoadTime.objects.filter(kind=kind, key=key)
        LoadTime.objects.create(kind=kind, key=key, seconds=seconds)
        oldest = rows.order_by("-pk").values_list("pk", flat=True)[KEPT - 1 : KEPT].first()
        if oldest is not None:
            rows.filter(pk__lt=oldest).delete()
    except DatabaseError as error:
        logger.warning("a load time cannot be kept: %s", error.__class__.__name__)
    finally:
        connection.close()
