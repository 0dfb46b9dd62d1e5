"""Who waits hears its place in the line and the reason, when one of them changes and at most twice a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inference.engine.lora.adapter_loader import AdapterLoader
from inference.engine.scheduling.scheduler import Scheduler
from inference.engine.scheduling.sequence import Sequence

from .bases import Bases
from .delivery import Delivery
from .requests import Requests

QUEUED_EVERY = 0.5  # seconds between position updates


@dataclass
class Positions:
    scheduler: Scheduler
    loader: AdapterLoader
    requests: Requests
    bases: Bases
    delivery: Delivery
    clock: Callable[[], float]
    last: float = 0.0

    def report(self) -> None:
        now, queue = self.clock(), self.scheduler.queue
        early = self.last and now - self.last < QUEUED_EVERY
        if not len(queue) or (early and all(sequence.reported for sequence in queue)):
            return
        self.last = now
        for position, sequence in enumerate(queue.order()):
            reason, detail = self._reason(sequence)
            if sequence.reported != (position, reason):
                sequence.reported = (position, reason)
                self.delivery.queued(sequence.id, position, reason, detail)

    def _reason(self, sequence: Sequence) -> tuple[str, dict[str, Any]]:
        wanted, info = self.requests.arrivals[sequence.id], self.bases.info
        if info is None:
            return "loading_base", {"base": wanted.base["name"]}
        if sequence.base_key != info.key:
            return "other_base", {"base": wanted.base["name"], "loaded": info.name}
        if wanted.adapter is not None and not self.loader.ready(wanted.adapter["digest"]):
            waits = self.loader.waits_for_room(wanted.adapter["digest"])
            return "memory" if waits else "loading_adapter", {"adapter": wanted.adapter["name"]}
        return "batch_full", {"running": len(self.scheduler.running)}
