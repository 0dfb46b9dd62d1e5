"""What was asked and has not ended: answers, and loads that wait for their base and its adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from inference.engine.lora.adapter_loader import LoadFailure
from inference.engine.lora.residency import Residency
from inference.engine.scheduling.scheduler import Scheduler
from inference.engine.scheduling.sequence import Sequence, SequenceState

from .delivery import Delivery
from .errors import EngineError
from .protocol import AdapterSpec, BaseSpec, GenerateCommand
from .runner_interface import BaseRunner, ProofResult

logger = logging.getLogger(__name__)


@dataclass
class LoadJob:
    """A `load` command under way."""

    id: str
    base: BaseSpec
    adapters: list[AdapterSpec]
    pin: bool | None  # None: leave it as it is


@dataclass
class Arrival:
    """A `generate` command with its prompt in tokens (see `intake.py`)."""

    sequence: Sequence
    base: BaseSpec
    adapter: AdapterSpec | None
    command: GenerateCommand

    @property
    def adapters(self) -> list[AdapterSpec]:
        return [self.adapter] if self.adapter is not None else []


@dataclass
class Requests:
    scheduler: Scheduler
    residency: Residency
    runner: BaseRunner
    delivery: Delivery
    clock: Callable[[], float]
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    jobs: list[LoadJob] = field(default_factory=list)
    failed_loads: dict[str, str] = field(default_factory=dict)  # digest -> reason of an adapter's last load

    def finish(self, sequence: Sequence, reason: str) -> None:
        self._leave(sequence)
        self.delivery.done(sequence, reason, self.clock())

    def fail(self, sequence: Sequence, error: EngineError) -> None:
        slot = sequence.slot
        self._leave(sequence)
        if slot >= 0:
            # What a failed sequence left must neither be reused nor meet a mask as NaN.
            self.scheduler.slots.slots[slot].tokens = []
            self.runner.scrub(slot)
        self.delivery.error(sequence.id, error)

    def _leave(self, sequence: Sequence) -> None:
        if sequence.state is SequenceState.RUNNING and sequence.adapter is not None:
            self.residency.unpin(sequence.adapter)
        self.scheduler.finish(sequence)
        self.arrivals.pop(sequence.id, None)

    def base_failed(self, spec: BaseSpec, error: EngineError) -> None:
        """End whoever wants the base; the registry hears of what it must know."""
        self.delivery.registry(spec, error)
        self._fail_those(lambda asked: asked.base["key"] == spec["key"], error)

    def adapter_failed(self, failure: LoadFailure, base: str) -> None:
        """End whoever wants the adapter. `base`: key of the loaded one."""
        digest, error = failure.digest, failure.error
        logger.warning("adapter %s failed: %s", digest[:12], error.message)
        reason = str(error.detail.get("reason", ""))
        refused = error.code == "adapter_incompatible"
        at_fault = str(error.detail.get("digest", digest))  # of a blend the member
        if error.code == "store_damaged":
            self.delivery.damage(at_fault, error)
        elif error.code == "adapter_load_failed" and reason:
            # Once may be the machine's fault; the same again is the adapter's.
            refused = self.failed_loads.get(at_fault) == reason
            self.failed_loads[at_fault] = reason
        if refused:
            self.delivery.proof(ProofResult(at_fault, False, "adapter_incompatible", error.message, 0.0, 0.0), base)
        self._fail_those(lambda asked: any(spec["digest"] == digest for spec in asked.adapters), error)

    def _fail_those(self, where: Callable[[Arrival | LoadJob], bool], error: EngineError) -> None:
        for arrival in list(filter(where, self.arrivals.values())):
            self.fail(arrival.sequence, error)
        for job in list(filter(where, self.jobs)):
            self.jobs.remove(job)
            self.delivery.error(job.id, error)
