"""The engine's loop: take commands, make bases and adapters resident, admit, run one step, deliver.

Everything here runs on one thread and touches tensors only through the runner, so it is tested with a fake one.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inference.engine.lora.adapter_loader import AdapterLoader, LoadFailure
from inference.engine.lora.residency import Residency
from inference.engine.scheduling.fair_queue import FairQueue
from inference.engine.scheduling.proof_pace import ProofPace
from inference.engine.scheduling.scheduler import Scheduler
from inference.engine.scheduling.sequence import Sequence, SequenceState

from .config import EngineConfig
from .delivery import Delivery
from .errors import EngineError, UnforeseenError
from .faults import Faults
from .protocol import AdapterSpec, BaseSpec, Event, GenerateCommand, Stage
from .runner_interface import BaseInfo, BaseRunner
from .stepping import Stepper
from .text.token_ids import check_tokens

logger = logging.getLogger(__name__)

IDLE_WAIT = 0.25  # seconds between looks at the clock when there is nothing to do
QUEUED_EVERY = 0.5  # seconds between position updates
SNAPSHOT_EVERY = 0.25  # seconds between status snapshots for the heartbeat


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


@dataclass
class Engine:
    config: EngineConfig
    runner: BaseRunner
    send: Callable[[Event], None]
    clock: Callable[[], float] = time.monotonic
    inbox: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.queue = FairQueue(self.config.queue_limit, self.config.user_limit)
        self.scheduler = Scheduler(self.queue, self.config.max_batch, self.config.prefill_chunk)
        self.residency = Residency(self.config.adapter_bytes)
        self.faults = Faults()
        self.loader = AdapterLoader(self.runner, self.residency, self.clock, self.faults)
        self.delivery = Delivery(self.send)
        self.pace = ProofPace()
        self.stepper = Stepper(self)
        self.arrivals: dict[str, Arrival] = {}  # every request that has not ended
        self.jobs: list[LoadJob] = []
        self.evictions: list[tuple[str, str]] = []  # (command id, digest), waiting for sequences to end
        self.unloads: list[str] = []  # command ids
        self.info: BaseInfo | None = None
        self.base: BaseSpec | None = None
        self.pinned = False
        self.draining = False  # another base waits: admit nobody, switch when all have ended
        self.loading: dict[str, Any] | None = None
        self.state = "empty"
        self.steps = self.tokens = 0
        self.failed_loads: dict[str, str] = {}  # base key -> reason of its last load, where nobody foresaw that
        self.last_work = self.clock()
        self.last_queued = self.last_snapshot = 0.0
        self.closing = False
        self.snapshot: dict[str, Any] = self.status()

    # The loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self.closing:
            self.tick()
        for arrival in list(self.arrivals.values()):
            self.fail(arrival.sequence, EngineError("shutting_down", "The engine is shutting down."))

    def tick(self, wait: bool = True) -> None:
        """One turn. With `wait` it sleeps on the inbox while there is nothing to do."""
        self.take_commands(wait and not self.has_work())
        if self.closing:
            return
        for failure in self.loader.advance():
            self.adapter_failed(failure)
        self.free_what_was_asked()
        self.choose_base()
        self.load_adapters()
        self.answer_jobs()
        for sequence in self.scheduler.admit(self.admissible, self.clock()):
            self.admitted(sequence)
        self.stepper.step()
        self.report_positions()
        self.unload_when_idle()
        if self.clock() - self.last_snapshot > SNAPSHOT_EVERY:
            self.last_snapshot = self.clock()
            self.snapshot = self.status()

    def has_work(self) -> bool:
        """Whether the next turn can do something without a further command. Reading threads are waited for briefly."""
        if self.scheduler.running or self.loader.proving:
            return True
        return bool(len(self.queue) or self.jobs or self.evictions or self.unloads) and not self.loader.futures

    def take_commands(self, wait: bool) -> None:
        timeout = 0.002 if self.loader.futures else IDLE_WAIT
        while True:
            try:
                command = self.inbox.get(block=wait, timeout=timeout if wait else None)
            except queue.Empty:
                return
            wait = False
            try:
                self.handle(command)
            except BaseException as error:  # noqa: BLE001  (sorted out by `caught`)
                self.command_failed(command, error)

    def command_failed(self, command: Any, error: BaseException) -> None:
        failure = self.faults.caught(error, "taking a command")
        command_id = command.sequence.id if isinstance(command, Arrival) else command.get("id")
        if command_id is not None:
            self.send_error(command_id, failure)

    # Commands --------------------------------------------------------------------------------------------------

    def handle(self, command: Any) -> None:
        if isinstance(command, Arrival):
            self.arrive(command)
            return
        kind = command["type"]
        if kind == "cancel":
            arrival = self.arrivals.get(command["id"])
            if arrival is not None:
                self.finish(arrival.sequence, "cancelled")
        elif kind == "status":
            self.reply(command["id"], self.status())
        elif kind == "load":
            self.jobs.append(LoadJob(command["id"], command["base"], command.get("adapters", []), command.get("pin")))
        elif kind == "unload":
            self.pinned = False
            self.unloads.append(command["id"])
        elif kind == "evict":
            self.evictions.append((command["id"], command["digest"]))
        elif kind == "shutdown":
            self.closing = True

    def reply(self, command_id: str, data: dict[str, Any]) -> None:
        self.send({"type": "reply", "id": command_id, "data": data})

    def arrive(self, arrival: Arrival) -> None:
        sequence = arrival.sequence
        try:
            if sequence.id in self.arrivals:
                raise EngineError("duplicate_id", "A request with this id is under way.", "id")
            if self.pinned and self.info is not None and arrival.base["key"] != self.info.key:
                raise self.pinned_error()
            self.check_prompt(arrival)
            self.queue.push(sequence, self.scheduler.running_by_user())
        except EngineError as error:
            self.send_error(sequence.id, error)
            return
        self.arrivals[sequence.id] = arrival

    def check_prompt(self, arrival: Arrival) -> None:
        """Raises EngineError where the prompt holds a token that the loaded base, if it is the one, does not have."""
        if self.info is not None and arrival.base["key"] == self.info.key:
            tokens = arrival.sequence.tokens
            check_tokens(tokens, self.info.vocabulary, arrival.command, self.runner.token_name)

    # Ends ------------------------------------------------------------------------------------------------------

    def send_error(self, request_id: str, error: EngineError) -> None:
        self.send(
            {
                "type": "error", "id": request_id, "code": error.code, "message": error.message,
                "param": error.param, "detail": error.detail,
            }
        )  # fmt: skip

    def _leave(self, sequence: Sequence) -> None:
        if sequence.state is SequenceState.RUNNING and sequence.adapter is not None:
            self.residency.unpin(sequence.adapter)
        self.scheduler.finish(sequence)
        self.arrivals.pop(sequence.id, None)

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
        self.send_error(sequence.id, error)

    def adapter_failed(self, failure: LoadFailure) -> None:
        logger.warning("adapter %s failed: %s", failure.digest[:12], failure.error.message)
        if failure.error.code == "store_damaged":
            reason = str(failure.error.detail.get("reason", ""))
            self.send({"type": "damage", "digest": failure.digest, "reason": reason})
        for arrival in [a for a in self.arrivals.values() if a.sequence.adapter == failure.digest]:
            self.fail(arrival.sequence, failure.error)
        for job in [j for j in self.jobs if any(a["digest"] == failure.digest for a in j.adapters)]:
            self.jobs.remove(job)
            self.send_error(job.id, failure.error)

    # Bases -----------------------------------------------------------------------------------------------------

    def choose_base(self) -> None:
        """Load the base that the next in line wants, once the loaded one is idle or has kept others long enough."""
        wanted = self.next_base()
        if wanted is None or (self.info is not None and wanted["key"] == self.info.key):
            self.draining = False
            return
        if self.scheduler.running:
            self.draining = True
            return
        self.draining = False
        self.load_base(wanted)

    def next_base(self) -> BaseSpec | None:
        for job in self.jobs:
            return job.base
        if not len(self.queue) or self.pinned:
            return None
        if self.info is None:
            first = self.queue.next(lambda sequence: True)
            return self.arrivals[first.id].base if first is not None else None
        others = [s for s in self.queue if s.base_key != self.info.key]
        if not others:
            return None
        oldest = min(others, key=lambda s: s.arrived)
        busy = bool(self.scheduler.running) or len(others) < len(self.queue)
        if busy and self.clock() - oldest.arrived < self.config.base_patience:
            return None
        return self.arrivals[oldest.id].base

    def load_base(self, spec: BaseSpec) -> None:
        started = self.clock()
        reported = [-1.0]

        def progress(stage: Stage, done: float) -> None:
            self.loading = {"stage": stage, "progress": round(done, 3), "name": spec["name"]}
            if self.clock() - reported[0] >= 0.1 or done >= 1.0:
                reported[0] = self.clock()
                for waiting in self.waiting_for(spec):
                    self.send({"type": "loading", "id": waiting, "stage": stage, "progress": round(done, 3),
                               "name": spec["name"]})  # fmt: skip
            self.take_commands(False)
            self.snapshot = self.status()

        self.state = "loading"
        failure: EngineError | None = None
        try:
            if self.info is not None:
                progress("unloading", 0.0)
                self.drop_base()
            self.send({"type": "base_load", "key": spec["key"], "state": "begun"})
            progress("starting", 0.0)
            self.info = self.runner.load_base(spec, progress)
            self.base = spec
        except BaseException as error:  # noqa: BLE001  (an architecture's code may raise anything; see `caught`)
            failure = self.faults.caught(error, f"loading {spec['name']}", "base_load_failed")
        finally:
            self.loading = None
            self.state = "ready" if self.info is not None else "empty"
        if failure is not None:
            self.send({"type": "base_load", "key": spec["key"], "state": "failed"})
            logger.warning("base %s failed: %s", spec["name"], failure.message)
            self.base_failed(spec, failure)
            if isinstance(failure, UnforeseenError):
                self.stepper.sign_of_life(failure)
            return
        assert self.info is not None  # noqa: S101  (for the type checker)
        self.send({"type": "base_load", "key": spec["key"], "state": "loaded"})
        self.failed_loads.pop(spec["key"], None)
        self.scheduler.reset_slots(self.info.slots)
        self.pace = ProofPace()
        seconds = self.clock() - started
        for sequence in self.queue:
            if sequence.base_key == spec["key"]:
                sequence.load_seconds += seconds
        logger.info("base %s is ready after %.1f s in %s", spec["name"], seconds, self.info.precision)

    def waiting_for(self, spec: BaseSpec) -> list[str]:
        ids = [sequence.id for sequence in self.queue if sequence.base_key == spec["key"]]
        return ids + [job.id for job in self.jobs if job.base["key"] == spec["key"]]

    def base_failed(self, spec: BaseSpec, error: EngineError) -> None:
        if isinstance(error, UnforeseenError):
            reason = str(error.detail.get("reason", ""))
            # Once may be the machine's fault; the same again is the base's, and a load costs minutes.
            if self.failed_loads.get(spec["key"]) == reason:
                error = EngineError("base_unsupported", error.message, reason=f"loading it fails ({reason})")
            self.failed_loads[spec["key"]] = reason
        self.tell_registry(spec, error)
        for sequence in [s for s in self.queue if s.base_key == spec["key"]]:
            self.fail(sequence, error)
        for job in [j for j in self.jobs if j.base["key"] == spec["key"]]:
            self.jobs.remove(job)
            self.send_error(job.id, error)

    def tell_registry(self, spec: BaseSpec, error: EngineError) -> None:
        """The registry remembers a base that cannot be served until its files change, and looks at one that did."""
        if error.code == "base_unsupported":
            self.send({"type": "refusal", "key": spec["key"], "reason": str(error.detail.get("reason", ""))})
        elif error.code == "base_changed":
            self.send({"type": "change", "key": spec["key"], "path": spec["path"]})

    def drop_base(self) -> int:
        self.loader.reset()
        self.scheduler.reset_slots(0)
        self.info = self.base = None
        self.pinned = False
        self.state = "empty"
        return self.runner.unload_base()

    def free_what_was_asked(self) -> None:
        if self.unloads and not self.scheduler.running:
            freed = self.drop_base() if self.info is not None else 0
            for command_id in self.unloads:
                self.reply(command_id, {"freed_bytes": freed})
            self.unloads = []
        for command_id, digest in list(self.evictions):
            if self.residency.pins[digest] or self.loader.underway(digest):
                continue
            self.evictions.remove((command_id, digest))
            self.scheduler.slots.forget(digest)
            try:
                freed = self.loader.remove(digest) if digest in self.residency else 0
            except BaseException as error:  # noqa: BLE001  (sorted out by `caught`)
                self.send_error(command_id, self.faults.caught(error, "evicting an adapter"))
                continue
            self.reply(command_id, {"freed_bytes": freed})

    def unload_when_idle(self) -> None:
        if self.arrivals or self.jobs or self.loader.busy():
            self.last_work = self.clock()
        elif (
            self.config.idle_unload and self.info is not None and not self.pinned
            and self.clock() - self.last_work > self.config.idle_unload
        ):  # fmt: skip
            logger.info("unloading %s after %d idle seconds", self.info.name, self.config.idle_unload)
            self.drop_base()

    # Adapters --------------------------------------------------------------------------------------------------

    def load_adapters(self) -> None:
        """Ask for the adapters that requests on the loaded base wait for, first in line first."""
        if self.info is None or self.draining or self.unloads:
            return
        for sequence in self.queue.order():
            spec = self.arrivals[sequence.id].adapter
            if spec is not None and sequence.base_key == self.info.key and self.loader.want(spec):
                self.send({"type": "loading", "id": sequence.id, "stage": "adapter", "progress": 0.0,
                           "name": spec["name"]})  # fmt: skip
        for job in self.jobs:
            if job.base["key"] == self.info.key:
                for spec in job.adapters:
                    self.loader.want(spec)

    def answer_jobs(self) -> None:
        for job in list(self.jobs):
            if self.info is None or job.base["key"] != self.info.key:
                continue
            if all(self.loader.ready(spec["digest"]) for spec in job.adapters):
                self.jobs.remove(job)
                if job.pin is not None:
                    self.pin(job.pin)
                self.reply(job.id, self.status())

    def pin(self, keep: bool) -> None:
        """Keep the loaded base, or no longer; whoever waits for another while it is kept gets that reason."""
        assert self.info is not None  # noqa: S101  (for the type checker)
        self.pinned = keep
        if not keep:
            return
        for sequence in [s for s in self.queue if s.base_key != self.info.key]:
            self.fail(sequence, self.pinned_error())

    def pinned_error(self) -> EngineError:
        name = self.info.name if self.info else ""
        return EngineError("base_pinned", f"{name} is pinned; unload it first.", base=name)

    def admissible(self, sequence: Sequence) -> bool:
        if self.info is None or self.draining or self.unloads or sequence.base_key != self.info.key:
            return False
        return sequence.adapter is None or self.loader.ready(sequence.adapter)

    def admitted(self, sequence: Sequence) -> None:
        assert self.info is not None  # noqa: S101  (for the type checker)
        if sequence.adapter is not None:
            self.residency.pin(sequence.adapter)
        if len(sequence.tokens) >= self.info.context:
            self.fail(sequence, context_exceeded(len(sequence.tokens), self.info.context))
            return
        if not sequence.started:
            try:
                self.check_prompt(self.arrivals[sequence.id])
                self.runner.start(sequence)
                sequence.started = True
            except BaseException as error:  # noqa: BLE001  (sorted out by `caught`)
                self.fail(sequence, self.faults.caught(error, f"starting request {sequence.id}"))

    # Reports ---------------------------------------------------------------------------------------------------

    def report_positions(self) -> None:
        now = self.clock()
        if not len(self.queue) or (self.last_queued and now - self.last_queued < QUEUED_EVERY and self.all_reported()):
            return
        self.last_queued = now
        for position, sequence in enumerate(self.queue.order()):
            reason, detail = self.reason(sequence)
            if sequence.reported != (position, reason):
                sequence.reported = (position, reason)
                self.send({"type": "queued", "id": sequence.id, "position": position, "reason": reason,
                           "detail": detail})  # fmt: skip

    def all_reported(self) -> bool:
        return all(sequence.reported for sequence in self.queue)

    def reason(self, sequence: Sequence) -> tuple[str, dict[str, Any]]:
        wanted = self.arrivals[sequence.id]
        if self.info is None:
            return "loading_base", {"base": wanted.base["name"]}
        if sequence.base_key != self.info.key:
            return "other_base", {"base": wanted.base["name"], "loaded": self.info.name}
        if wanted.adapter is not None and not self.loader.ready(wanted.adapter["digest"]):
            if self.loader.waits_for_room(wanted.adapter["digest"]):
                return "memory", {"adapter": wanted.adapter["name"]}
            return "loading_adapter", {"adapter": wanted.adapter["name"]}
        return "batch_full", {"running": len(self.scheduler.running)}

    def status(self) -> dict[str, Any]:
        """See the end of `protocol.py`."""
        info = self.info
        return {
            "state": self.state,
            "base": info.name if info else None,
            "base_key": info.key if info else None,
            "precision": info.precision if info else None,
            "context": info.context if info else None,
            "slots": info.slots if info else 0,
            "device": self.runner.device,
            "pinned": self.pinned,
            "adapters": [
                {"digest": a.digest, "name": a.name, "rank": a.rank, "bytes": a.bytes,
                 "in_use": self.residency.pins[a.digest]}
                for a in self.residency.adapters.values()
            ],
            "running": len(self.scheduler.running),
            "waiting": len(self.queue),
            "memory": self.runner.memory(),
            "steps": self.steps,
            "tokens": self.tokens,
            "errors": self.faults.count,
            "loading": self.loading,
        }  # fmt: skip


def context_exceeded(tokens: int, context: int) -> EngineError:
    return EngineError(
        "context_length_exceeded",
        f"The prompt has {tokens} tokens; with room for an answer it may have {context - 1}.",
        "messages", tokens=tokens, context=context,
    )  # fmt: skip
