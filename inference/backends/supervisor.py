"""The worker's life, as the I/O thread leads it: started when it is wanted, watched, restarted, ended in order."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable
from typing import Any

from .entries import Entries, Entry
from .interface import OnVerdict, State, Worker, cancelled, failure, is_final
from .process import WorkerGoneError, WorkerOptions, WorkerProcess, encode
from .residents import Residents
from .restarts import Blame, RestartPolicy

logger = logging.getLogger(__name__)

TICK = 0.25  # seconds between looks at the process
STARTS = frozenset({"generate", "load", "count"})  # commands worth starting a worker for
HEALTHY_AFTER = 60.0
SHUTDOWN_GRACE = 6.0
MAX_TRIES = 2  # workers that may end under a request that was only waiting, before it ends with the last


class Supervisor:
    """Belongs to the I/O thread. Others may only read: `ready`, `state`, `snapshot`, `last_status`."""

    def __init__(
        self, options: WorkerOptions, entries: Entries, on_verdict: OnVerdict, clock: Callable[[], float]
    ) -> None:
        self.options = options
        self.entries = entries
        self.on_verdict = on_verdict
        self.clock = clock
        self.policy = RestartPolicy(clock)
        self.worker: WorkerProcess | None = None
        self.restarts = 0
        self.device = ""
        self.last_status: dict[str, Any] | None = None
        self._started = 0.0
        self._kill_at: float | None = None

    @property
    def ready(self) -> bool:
        worker = self.worker
        return worker is not None and worker.ready

    @property
    def state(self) -> State:
        worker = self.worker
        if worker is not None:
            return "ready" if worker.ready else "starting"
        if self.entries.closed:
            return "closed"
        return "failed" if self.policy.failures else "stopped"

    def snapshot(self) -> Worker:
        worker = self.worker
        return {
            "state": self.state,
            "pid": worker.pid if worker else None,
            "device": self.device,
            "restarts": self.restarts,
            "in_flight": len(self.entries),
        }

    # What is asked

    def accept(self, request_id: str) -> None:
        entry = self.entries.get(request_id)
        if entry is None:
            return  # ended meanwhile, with everything that waited
        self.policy.residents.note(entry.command)
        wait = self.policy.wait(entry.command, self.ready)
        if entry.sent:
            pass  # with everything that waited, when the worker became ready
        elif not self.ready and entry.command["type"] not in STARTS:
            self.entries.finish(failure(request_id, "engine_unavailable"))
        elif wait:
            self.entries.finish(failure(request_id, "engine_unavailable", {"retry_after": wait}))
        elif self.worker is not None and self.worker.ready:
            self.send(self.worker, entry)
        else:
            self._tell_starting(entry)

    def send(self, worker: WorkerProcess, entry: Entry) -> None:
        entry.sent = True
        entry.tries += 1
        worker.send(entry.line)

    def cancel(self, request_id: str) -> None:
        entry = self.entries.get(request_id)
        if entry is None:
            return
        if entry.sent and self.worker is not None:
            self.worker.send(encode({"type": "cancel", "id": request_id}))
        elif entry.command["type"] == "generate":
            self.entries.finish(cancelled(request_id, entry.digest or entry.base))
        else:
            self.entries.finish(failure(request_id, "cancelled"))

    # The worker's life

    def advance(self) -> bool:
        """Start a worker where one is wanted, or go on with the end; true when it is gone and nobody waits."""
        if self.entries.closed:
            return self._shut_down()
        if self._wanted() and not self.policy.delay():
            self._start()
        return False

    def patience(self) -> float | None:
        """Seconds that the thread may wait for something to happen; None for as long as it takes."""
        if self.worker is not None or self.entries.closed:
            return TICK
        return self.policy.delay() if self._wanted() else None

    def serve(self, mask: int, listened: float) -> None:
        """Read and write what the worker's socket is ready for (`mask`), after it was listened to for so long."""
        worker = self.worker
        if worker is None:
            return
        worker.listened += listened
        worker.silence += listened
        try:
            if mask & selectors.EVENT_WRITE:
                worker.flush()
            if mask & selectors.EVENT_READ:
                worker.receive(self._handle)
            elif worker.exited():
                raise WorkerGoneError("exited")
        except WorkerGoneError as gone:
            logger.debug("engine: %s", gone)
            self.lost("engine_crashed")
            return
        if worker.ready and worker.silence > self.options.heartbeat_timeout:
            logger.error("engine: no sign of life for %.0f s, killing it", worker.silence)
            worker.kill()
        elif not worker.ready and worker.listened > self.options.start_timeout:
            logger.error("engine: not ready after %.0f s, killing it", worker.listened)
            worker.kill()

    def lost(self, code: str) -> None:
        """The worker is gone: everything that it was doing fails, what it held is remembered."""
        worker, self.worker = self.worker, None
        if worker is None:
            return
        how, closing = worker.end(), self.entries.closed
        self.restarts += worker.ready
        logger.log(logging.INFO if closing else logging.ERROR, "engine: pid %s ended: %s", worker.pid, how)
        self.last_status = None
        healthy = worker.completed > 0 or self.clock() - self._started > HEALTHY_AFTER
        blame = self.policy.ended(how, worker.ready, healthy, code == "engine_crashed" and not closing)
        self._tell_end("shutting_down" if closing else code, how, blame)
        self._tell("engine_stopped" if closing else "engine_crashed", reason=how)
        if not worker.ready:
            self._refuse_if_given_up()

    def _wanted(self) -> bool:
        waiting = any(not entry.sent for entry in self.entries.all())
        return self.worker is None and (waiting or self.policy.residents.plan is not None)

    def _start(self) -> None:
        try:
            self.worker = WorkerProcess(self.options)
        except OSError as error:
            logger.error("engine: cannot start: %s", error)
            self.policy.start_failed()
            self._refuse_if_given_up()
            return
        self._started = self.clock()
        logger.info("engine: starting")
        for entry in self.entries.all():
            self._tell_starting(entry)

    def _tell_starting(self, entry: Entry) -> None:
        if entry.command["type"] != "count":
            name = (entry.command.get("base") or {}).get("name", "")
            self._deliver(entry, {
                "type": "loading", "id": entry.id, "stage": "starting", "progress": 0.0, "name": name
            })  # fmt: skip

    def _tell_end(self, code: str, how: str, blame: Blame) -> None:
        """What the worker was doing fails. Where it was loading a base, requests for others only waited, and still do;
        a base that ends the process again is refused, and one that has changed is looked at again."""
        for entry in self.entries.all():
            its_base = entry.base == blame.base
            waited = blame.loading and entry.base and not its_base and not entry.begun and entry.tries <= MAX_TRIES
            if entry.sent and waited:
                entry.sent = False
            elif entry.sent and its_base and blame.change is not None:
                self.entries.finish(failure(entry.id, blame.change.code, blame.change.detail))
            elif entry.sent:
                named = {"base": entry.command["base"]["name"]} if blame.loading and its_base else {}
                self.entries.finish(failure(entry.id, code, {"reason": how, **named}))
            elif blame.refusal and its_base:
                self.entries.finish(failure(entry.id, "base_unsupported", {"reason": blame.refusal}))
        if blame.refusal:
            self.on_verdict({"type": "refusal", "key": blame.base, "reason": blame.refusal})
        if blame.change is not None:
            self.on_verdict({"type": "change", "key": blame.base, "path": blame.change.detail["path"]})

    def _refuse_if_given_up(self) -> None:
        if self.policy.gave_up:
            detail = {"retry_after": max(1.0, self.policy.delay())}
            for entry in self.entries.all():
                self.entries.finish(failure(entry.id, "engine_unavailable", detail))

    def _shut_down(self) -> bool:
        for entry in self.entries.all():
            if not entry.sent:
                self.entries.finish(failure(entry.id, "shutting_down"))
        worker = self.worker
        if worker is not None and self._kill_at is None:
            self._kill_at = self.clock() + SHUTDOWN_GRACE
            worker.send(encode({"type": "shutdown"}))
        if worker is not None and (not worker.ready or self.clock() > (self._kill_at or 0)):
            worker.kill()  # one that still imports has nothing to lose
        return worker is None

    # Events

    def _handle(self, event: Any) -> None:
        worker, kind = self.worker, event.get("type")
        if worker is None:
            return
        if kind == "ready":
            self._became_ready(worker, event)
        elif kind == "heartbeat":
            self.last_status = event.get("status") or {}
            self.on_verdict(event)
            self.policy.residents.seen(self.last_status)
        elif kind == "base_load":
            self.policy.suspects.heard(event)
        elif kind in {"proof", "refusal", "damage", "change", "happened"}:
            self.on_verdict(event)
        elif (entry := self.entries.get(event.get("id"))) is not None:
            if kind == "done":
                worker.completed += 1
                self.policy.residents.answered(entry.command)
            if is_final(event):
                self.entries.finish(event)
            else:
                entry.begun |= kind in ("prompt", "token")
                self._deliver(entry, event)
        elif event.get("id") == Residents.COMMAND_ID and kind in ("reply", "error"):
            self.policy.residents.plan = None  # for better or worse: it is not tried again

    def _became_ready(self, worker: WorkerProcess, event: dict[str, Any]) -> None:
        worker.ready = True
        self.device = event.get("device", "")
        seconds = self.clock() - self._started
        logger.info("engine: ready on %s after %.1f s, pid %s", self.device, seconds, worker.pid)
        self._tell("engine_started", seconds)
        entries = self.entries.all()
        restore = self.policy.residents.command([entry.command for entry in entries])
        if restore is not None:
            worker.send(encode(restore))
        for entry in entries:
            if not entry.sent:
                self.send(worker, entry)

    def _tell(self, kind: str, seconds: float = 0.0, reason: str = "") -> None:
        self.on_verdict(
            {"type": "happened", "kind": kind, "key": "", "name": self.device, "seconds": seconds, "reason": reason}
        )

    def _deliver(self, entry: Entry, event: Any) -> None:
        if not entry.sink(event):
            entry.sink = deaf
            self.cancel(entry.id)


def deaf(event: Any) -> bool:
    return True
