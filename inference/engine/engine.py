"""The engine's loop: take commands, make bases and adapters resident, admit, run one step, deliver.

Everything here runs on one thread and touches tensors only through the runner, so it is tested with a fake one.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inference.engine.lora.adapter_loader import AdapterLoader
from inference.engine.lora.residency import Residency
from inference.engine.scheduling.fair_queue import FairQueue
from inference.engine.scheduling.scheduler import Scheduler
from inference.engine.scheduling.sequence import Sequence

from .bases import Bases
from .config import EngineConfig
from .delivery import Delivery
from .errors import EngineError
from .faults import Faults
from .positions import Positions
from .protocol import Event
from .requests import Arrival, LoadJob, Requests
from .runner_interface import BaseRunner
from .stepping import Stepper
from .text.token_ids import check_tokens

IDLE_WAIT = 0.25  # seconds between looks at the clock when there is nothing to do
SNAPSHOT_EVERY = 0.25  # seconds between status snapshots for the heartbeat


@dataclass
class Engine:
    """Commands come by `inbox`: a dictionary of `protocol.py`, or an Arrival in place of a `generate`."""

    config: EngineConfig
    runner: BaseRunner
    send: Callable[[Event], None]
    clock: Callable[[], float] = time.monotonic
    inbox: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        config, runner, clock = self.config, self.runner, self.clock
        self.queue = FairQueue(config.queue_limit, config.user_limit)
        self.scheduler = scheduler = Scheduler(self.queue, config.max_batch, config.prefill_chunk)
        self.residency = Residency(config.adapter_bytes)
        self.faults = faults = Faults()
        self.loader = loader = AdapterLoader(runner, self.residency, clock, faults, self._adapter_moved)
        self.delivery = delivery = Delivery(self.send)
        self.requests = requests = Requests(scheduler, self.residency, runner, delivery, clock)
        self.bases = bases = Bases(
            config, runner, scheduler, loader, requests, delivery, faults, clock, self._while_loading
        )
        self.stepper = Stepper(runner, scheduler, loader, requests, bases, delivery, faults, clock)
        self.positions = Positions(scheduler, loader, requests, bases, delivery, clock)
        self.evictions: list[tuple[str, str]] = []  # (command id, digest), waiting for sequences to end
        self.last_snapshot = 0.0
        self.closing = False
        self.snapshot: dict[str, Any] = self.status()

    # The loop

    def run(self) -> None:
        while not self.closing:
            self.tick()
        for arrival in list(self.requests.arrivals.values()):
            self.requests.fail(arrival.sequence, EngineError("shutting_down", "The engine is shutting down."))

    def tick(self, wait: bool = True) -> None:
        """One turn. With `wait` it sleeps on the inbox while there is nothing to do."""
        self._take_commands(wait and not self._has_work())
        if self.closing:
            return
        for failure in self.loader.advance():
            self.requests.adapter_failed(failure, self.bases.key)
        self.bases.free_what_was_asked()
        self._evict()
        self.bases.choose()
        self._load_adapters()
        self._answer_jobs()
        self._admit()
        self.stepper.step()
        self.positions.report()
        self.bases.unload_when_idle()
        if self.clock() - self.last_snapshot > SNAPSHOT_EVERY:
            self.last_snapshot = self.clock()
            self.snapshot = self.status()

    def _has_work(self) -> bool:
        """Whether the next turn can do something without a further command. Reading threads are waited for briefly."""
        if self.scheduler.running or self.loader.proving:
            return True
        waiting = len(self.queue) or self.requests.jobs or self.bases.unloads or self.evictions
        return bool(waiting) and not self.loader.futures

    def _while_loading(self) -> None:
        self._take_commands(False)
        self.snapshot = self.status()

    # Commands

    def _take_commands(self, wait: bool) -> None:
        timeout = 0.002 if self.loader.futures else IDLE_WAIT
        while True:
            try:
                command = self.inbox.get(block=wait, timeout=timeout if wait else None)
            except queue.Empty:
                return
            wait = False
            try:
                self._handle(command)
            except BaseException as error:  # noqa: BLE001  (sorted out by `caught`)
                failure = self.faults.caught(error, "taking a command")
                command_id = command.sequence.id if isinstance(command, Arrival) else command.get("id")
                if command_id is not None:
                    self.delivery.error(command_id, failure)

    def _handle(self, command: Any) -> None:
        if isinstance(command, Arrival):
            self._arrive(command)
            return
        kind = command["type"]
        if kind == "cancel":
            arrival = self.requests.arrivals.get(command["id"])
            if arrival is not None:
                self.requests.finish(arrival.sequence, "cancelled")
        elif kind == "status":
            self.delivery.reply(command["id"], self.status())
        elif kind == "load":
            self.requests.jobs.append(
                LoadJob(command["id"], command["base"], command.get("adapters", []), command.get("pin"))
            )
        elif kind == "unload":
            self.bases.unload(command["id"])
        elif kind == "evict":
            self.evictions.append((command["id"], command["digest"]))
        elif kind == "shutdown":
            self.closing = True

    def _arrive(self, arrival: Arrival) -> None:
        """Raises EngineError where the request cannot wait in line."""
        sequence = arrival.sequence
        if sequence.id in self.requests.arrivals:
            raise EngineError("duplicate_id", "A request with this id is under way.", "id")
        if self.bases.pinned and self.bases.info is not None and not self.bases.loaded(sequence.base_key):
            raise self.bases.pinned_error()
        self._check_prompt(arrival)
        self.queue.push(sequence, self.scheduler.running_by_user())
        self.requests.arrivals[sequence.id] = arrival

    def _check_prompt(self, arrival: Arrival) -> None:
        """Raises EngineError where the prompt holds a token that the loaded base, if it is the one, does not have. An
        adapter may have tokens of its own, which shows when it is resident: it is checked again then."""
        info, sequence = self.bases.info, arrival.sequence
        if info is None or arrival.base["key"] != info.key:
            return
        resident = self.residency.adapters.get(sequence.adapter or "")
        if resident is None and arrival.adapter is not None and arrival.adapter.get("prompting"):
            return
        sequence.vocabulary = resident.vocabulary or info.vocabulary if resident is not None else info.vocabulary
        check_tokens(
            sequence.tokens, sequence.vocabulary, arrival.command,
            lambda token: self.runner.token_name(token, sequence.adapter),
        )  # fmt: skip

    # Adapters

    def _load_adapters(self) -> None:
        """Ask for the adapters that requests on the loaded base wait for, first in line first."""
        if self.bases.info is None or not self.bases.serves(self.bases.info.key):
            return
        for sequence in self.queue.order():
            spec = self.requests.arrivals[sequence.id].adapter
            if spec is not None and self.bases.loaded(sequence.base_key) and self.loader.want(spec):
                self.delivery.loading([sequence.id], "adapter", 0.0, spec["name"])
        for job in self.requests.jobs:
            if self.bases.loaded(job.base["key"]):
                for spec in job.adapters:
                    self.loader.want(spec)

    def _answer_jobs(self) -> None:
        for job in list(self.requests.jobs):
            if self.bases.loaded(job.base["key"]) and all(self.loader.ready(s["digest"]) for s in job.adapters):
                self.requests.jobs.remove(job)
                if job.pin is not None:
                    self.bases.pin(job.pin)
                self.delivery.reply(job.id, self.status())

    def _adapter_moved(self, digest: str, name: str, seconds: float | None) -> None:
        """`seconds` that its load took; None where it left for want of room."""
        if seconds is None:
            self.delivery.happened("adapter_evicted", digest, name, reason="room")
        else:
            self.requests.failed_loads.pop(digest, None)
            self.delivery.happened("adapter_loaded", digest, name, seconds)

    def _evict(self) -> None:
        for command_id, digest in list(self.evictions):
            leaving = [digest, *self.loader.blends_of(digest)]  # no blend outlives a member
            if any(self.residency.pins[one] or self.loader.underway(one) for one in leaving):
                continue
            self.evictions.remove((command_id, digest))
            try:
                freed = 0
                for one in leaving:
                    self.scheduler.slots.forget(one)
                    freed += self.loader.remove(one) if one in self.residency else 0
            except BaseException as error:  # noqa: BLE001  (sorted out by `caught`)
                self.delivery.error(command_id, self.faults.caught(error, "evicting an adapter"))
                continue
            self.delivery.reply(command_id, {"freed_bytes": freed})

    def _admit(self) -> None:
        for sequence in self.scheduler.admit(self._admissible, self.clock()):
            self._admitted(sequence)
        # A preempted sequence let go of its slot; its adapter may leave the bank until it is admitted again. Some were
        # admitted just now, so this comes last.
        for sequence in self.scheduler.preempted:
            if sequence.adapter is not None:
                self.residency.unpin(sequence.adapter)
        self.scheduler.preempted.clear()

    def _admissible(self, sequence: Sequence) -> bool:
        ready = sequence.adapter is None or self.loader.ready(sequence.adapter)
        return ready and self.bases.serves(sequence.base_key)

    def _admitted(self, sequence: Sequence) -> None:
        info = self.bases.info
        assert info is not None  # noqa: S101  (for the type checker)
        if sequence.adapter is not None:
            self.residency.pin(sequence.adapter)
        if len(sequence.tokens) + sequence.answers > info.context:
            self.requests.fail(sequence, context_exceeded(len(sequence.tokens), info.context))
        elif not sequence.started:
            try:
                self._check_prompt(self.requests.arrivals[sequence.id])
                self.runner.start(sequence)
                sequence.started = True
                self._echo(sequence)
            except BaseException as error:  # noqa: BLE001  (sorted out by `caught`)
                self.requests.fail(sequence, self.faults.caught(error, f"starting request {sequence.id}"))

    def _echo(self, sequence: Sequence) -> None:
        reading = sequence.reading
        if reading is not None and reading.echo:
            if reading.text is None:
                reading.text = self.runner.spell(sequence.tokens, sequence.adapter)
            self.delivery.echo(sequence, reading.text)

    def status(self) -> dict[str, Any]:
        """See the end of `protocol.py`."""
        info = self.bases.info
        return {
            "state": self.bases.state,
            "base": info.name if info else None,
            "base_key": info.key if info else None,
            "precision": info.precision if info else None,
            "context": info.context if info else None,
            "slots": info.slots if info else 0,
            "device": self.runner.device,
            "pinned": self.bases.pinned,
            "adapters": [
                {"digest": a.digest, "name": a.name, "rank": a.rank, "bytes": a.bytes,
                 "in_use": self.residency.pins[a.digest]}
                for a in self.residency.adapters.values()
            ],
            "running": len(self.scheduler.running),
            "waiting": len(self.queue),
            "memory": self.runner.memory(),
            "steps": self.stepper.steps,
            "tokens": self.stepper.tokens,
            "step_seconds": self.stepper.seconds,
            "step_rows": self.stepper.rows,
            "kv_used": sum(sequence.computed for sequence in self.scheduler.running),
            "kv_tokens": info.slots * info.context if info else 0,
            "errors": self.faults.count,
            "loading": self.bases.loading,
        }  # fmt: skip


def context_exceeded(tokens: int, context: int) -> EngineError:
    return EngineError(
        "context_length_exceeded",
        f"The prompt has {tokens} tokens; with room for an answer it may have {context - 1}.",
        "messages", tokens=tokens, context=context,
    )  # fmt: skip
