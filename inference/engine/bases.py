"""The one base in memory: whose turn it is, its load, how long it is kept, and letting it go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inference.engine.lora.adapter_loader import AdapterLoader
from inference.engine.scheduling.proof_pace import ProofPace
from inference.engine.scheduling.scheduler import Scheduler

from .config import EngineConfig
from .delivery import Delivery
from .errors import EngineError, UnforeseenError
from .faults import Faults
from .protocol import BaseSpec, Stage
from .requests import Requests
from .runner_interface import BaseInfo, BaseRunner, sign_of_life

logger = logging.getLogger(__name__)


@dataclass
class Bases:
    """`info` is that of the loaded base. While `draining`, another base waits: nobody is admitted, and all that run end
    before it is loaded. `meanwhile` is called while a base loads."""

    config: EngineConfig
    runner: BaseRunner
    scheduler: Scheduler
    loader: AdapterLoader
    requests: Requests
    delivery: Delivery
    faults: Faults
    clock: Callable[[], float]
    meanwhile: Callable[[], None]
    info: BaseInfo | None = None
    pace: ProofPace = field(default_factory=ProofPace)  # of proofs beside this base's steps
    pinned: bool = False
    draining: bool = False
    loading: dict[str, Any] | None = None
    unloads: list[str] = field(default_factory=list)  # ids of commands that wait for the end of what runs

    def __post_init__(self) -> None:
        self._failed_loads: dict[str, str] = {}  # key -> reason of the last load, where nobody foresaw that
        self._last_work = self.clock()

    @property
    def state(self) -> str:
        return "loading" if self.loading else "ready" if self.info else "empty"

    @property
    def key(self) -> str:
        return self.info.key if self.info is not None else ""

    def loaded(self, key: str) -> bool:
        return self.info is not None and self.info.key == key

    def serves(self, key: str) -> bool:
        """Whether requests for a base may begin: it is loaded, and nothing is to take its place."""
        return self.info is not None and self.info.key == key and not self.draining and not self.unloads

    # Turns

    def choose(self) -> None:
        """Load the base that the next in line wants, once the loaded one is idle or has kept others long enough."""
        wanted = self._next()
        if wanted is None or self.loaded(wanted["key"]):
            self.draining = False
            return
        self.draining = bool(self.scheduler.running)
        if not self.draining:
            self._load(wanted)

    def _next(self) -> BaseSpec | None:
        if self.requests.jobs:
            return self.requests.jobs[0].base
        queue = self.scheduler.queue
        if not len(queue) or self.pinned:
            return None
        if self.info is None:
            first = queue.next(lambda sequence: True)
            return self.requests.arrivals[first.id].base if first is not None else None
        # Where nobody waits for an answer of another base, none is loaded while somebody waits for one of this.
        here = [*self.scheduler.running, *(s for s in queue if s.base_key == self.info.key)]
        others = [s for s in queue if s.base_key != self.info.key]
        if urgent := [s for s in others if not s.background]:
            others, here = urgent, [s for s in here if not s.background]
        elif not others or any(not s.background for s in here):
            return None
        oldest = min(others, key=lambda s: s.arrived)
        busy = bool(here)
        if busy and self.clock() - oldest.arrived < self.config.base_patience:
            return None
        return self.requests.arrivals[oldest.id].base

    def pin(self, keep: bool) -> None:
        """Keep the loaded base, or no longer; whoever waits for another while it is kept gets that reason."""
        self.pinned = keep
        if keep:
            for sequence in [s for s in self.scheduler.queue if not self.loaded(s.base_key)]:
                self.requests.fail(sequence, self.pinned_error())

    def pinned_error(self) -> EngineError:
        name = self.info.name if self.info else ""
        return EngineError("base_pinned", f"{name} is pinned; unload it first.", base=name)

    # Letting go

    def unload(self, command_id: str) -> None:
        """Free the base once nothing runs any more."""
        self.pinned = False
        self.unloads.append(command_id)

    def free_what_was_asked(self) -> None:
        if self.unloads and not self.scheduler.running:
            freed = self._drop("asked")
            for command_id in self.unloads:
                self.delivery.reply(command_id, {"freed_bytes": freed})
            self.unloads = []

    def unload_when_idle(self) -> None:
        patience = self.config.idle_unload
        if self.requests.arrivals or self.requests.jobs or self.loader.busy():
            self._last_work = self.clock()
        elif patience and self.info and not self.pinned and self.clock() - self._last_work > patience:
            logger.info("unloading %s after %d idle seconds", self.info.name, patience)
            self._drop("idle")

    def _drop(self, reason: str) -> int:
        if self.info is None:
            return 0
        self.delivery.happened("base_unloaded", self.info.key, self.info.name, reason=reason)
        self.loader.reset()
        self.scheduler.reset_slots(0)
        self.info = None
        self.pinned = False
        return self.runner.unload_base()

    # Loading

    def _load(self, spec: BaseSpec) -> None:
        started = self.clock()
        key, name = spec["key"], spec["name"]
        reported = -1.0

        def progress(stage: Stage, done: float) -> None:
            nonlocal reported
            self.loading = {"stage": stage, "progress": round(done, 3), "name": name}
            if self.clock() - reported >= 0.1 or done >= 1.0:
                reported = self.clock()
                ids = [sequence.id for sequence in self.scheduler.queue if sequence.base_key == key]
                ids += [job.id for job in self.requests.jobs if job.base["key"] == key]
                self.delivery.loading(ids, stage, done, name)
            self.meanwhile()

        failure: EngineError | None = None
        try:
            if self.info is not None:
                progress("unloading", 0.0)
                self._drop("other_base")
            self.delivery.base_load(key, "begun")
            progress("starting", 0.0)
            info = self.info = self.runner.load_base(spec, progress)
        except BaseException as error:  # noqa: BLE001  (an architecture's code may raise anything; see `caught`)
            failure = self.faults.caught(error, f"loading {name}", "base_load_failed")
        finally:
            self.loading = None
        if failure is not None:
            self.delivery.base_load(key, "failed")
            logger.warning("base %s failed: %s", name, failure.message)
            self.requests.base_failed(spec, self._judged(key, failure))
            if isinstance(failure, UnforeseenError):
                sign_of_life(self.runner, failure)
            return
        self.delivery.base_load(key, "loaded")
        self._failed_loads.pop(key, None)
        self.scheduler.reset_slots(info.slots)
        self.pace = ProofPace()
        seconds = self.clock() - started
        self.delivery.happened("base_loaded", key, name, seconds)
        for sequence in self.scheduler.queue:
            if sequence.base_key == key:
                sequence.load_seconds += seconds
        logger.info("base %s is ready after %.1f s in %s", name, seconds, info.precision)

    def _judged(self, key: str, error: EngineError) -> EngineError:
        """Once may be the machine's fault; the same again is the base's, and a load costs minutes."""
        if not isinstance(error, UnforeseenError):
            return error
        reason = str(error.detail.get("reason", ""))
        before, self._failed_loads[key] = self._failed_loads.get(key), reason
        if before == reason:
            return EngineError("base_unsupported", error.message, reason=f"loading it fails ({reason})")
        return error
