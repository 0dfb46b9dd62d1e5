"""What is known of the addresses: asked every few seconds, and whenever somebody wants to see it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from . import states
from .resources import Resources

logger = logging.getLogger(__name__)

EVERY = 10.0  # seconds between looks at the addresses, once the fleet is in use
FRESH = 2.0  # seconds in which a status is not asked for again


class Watching:
    """Belongs to one event loop; any thread may read `seen`, None before the first look."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.seen: list[states.AddressState] | None = None
        self.looked = 0.0
        self._looking = asyncio.Lock()

    async def look(self, fresh: float = FRESH) -> None:
        """Unless that was done within `fresh` seconds."""
        async with self._looking:
            if self.seen is None or time.monotonic() - self.looked > fresh:
                resources = self.resources
                now = await states.look(resources.options.addresses, resources.catalogue, resources.wire)
                log_changes(self.seen or [], now)
                self.seen, self.looked = now, time.monotonic()

    async def watch(self, told: Callable[[], None]) -> None:
        """Look again and again, and call `told` after each look."""
        while True:
            try:
                await self.look(EVERY / 2)
                told()
            except Exception:
                logger.exception("the fleet could not be looked at")
            await asyncio.sleep(EVERY)


def status(seen: list[states.AddressState], uses: Callable[[str], int], tokens: int) -> dict[str, Any]:
    """As the protocol has it, as far as a fleet says it, and `fleet`: the state of each address."""
    digests = sorted({digest for one in seen for digest in one["adapters"]})
    bases = sorted({one["base"] for one in seen if one["reachable"]})
    return {
        "state": "ready" if any(one["reachable"] for one in seen) else "empty",
        "base": ", ".join(bases) or None,
        "base_key": "",
        "precision": "",
        "device": "vllm",
        "pinned": False,
        "adapters": [{"digest": one, "name": one[:12], "in_use": uses(one), "rank": 0, "bytes": 0} for one in digests],
        "running": sum(one["running"] or 0 for one in seen),
        "waiting": sum(one["waiting"] or 0 for one in seen),
        "tokens": tokens,
        "memory": {},
        "fleet": seen,
    }


def log_changes(before: list[states.AddressState], now: list[states.AddressState]) -> None:
    """An address that is away is told once, and when it is back."""
    was = {one["address"]: one["error"] for one in before}
    for one in now:
        if one["error"] and was.get(one["address"]) != one["error"]:
            logger.warning("fleet: %s: %s", one["address"], one["error"])
        elif not one["error"] and was.get(one["address"]):
            logger.info("fleet: %s answers again", one["address"])
