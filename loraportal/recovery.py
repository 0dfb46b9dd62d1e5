"""At the start: end what killed processes left, so that nobody waits for them. Nothing that lives is touched."""

from __future__ import annotations

import logging
from collections.abc import Callable

from adapters.recovery import recover as recover_registry
from chat.keeping import end_abandoned
from inference.quota.leftovers import free
from inference.uses import forget_dead

logger = logging.getLogger(__name__)

STEPS: tuple[tuple[str, Callable[[], object]], ...] = (
    ("scans, locks and copies", recover_registry),
    ("answers", end_abandoned),
    ("places and reserved tokens", free),
    ("adapters in use", forget_dead),
)


def recover() -> None:
    """All steps. One that fails is only logged: each is made good when somebody looks, too."""
    for name, step in STEPS:
        try:
            step()
        except Exception:  # noqa: BLE001  (the database may be away, or not be migrated yet: the portal starts)
            logger.exception("what killed processes left could not be put right: %s", name)
