"""The engine's worker from the web side: started on first use, watched, restarted, ended in order.

One I/O thread owns the process and both directions of its socket; nothing here ever blocks an event loop. Other
threads only append to an inbox and wake it.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inference.engine.protocol import AdapterSpec, BaseSpec

from .interface import Event, Request, Sink, Snapshot, cancelled, failure, is_final
from .process import WorkerGoneError, WorkerOptions, WorkerProcess, encode
from .residents import Residents
from .suspects import Suspects

logger = logging.getLogger(__name__)

TICK = 0.25  # seconds between looks at the process
STARTS = frozenset({"generate", "load", "count"})  # commands worth starting a worker for
MAX_BACKOFF = 30.0
GIVE_UP_AFTER = 3  # failed starts in a row before waiting requests hear about it
HEALTHY_AFTER = 60.0
MAX_WAITING_BYTES = 64 * 2**20
SHUTDOWN_GRACE = 6.0
MAX_TRIES = 2  # workers that may end under a request that was only waiting, before it ends with the last


@dataclass
class Entry:
    """A command whose final event is still to come."""

    command: Mapping[str, Any]
    line: bytes
    sink: Sink
    sent: bool = False
    begun: bool = False  # a piece of its answer was delivered
    tries: int = 0  # workers that it was sent to

    @property
    def base(self) -> str:
        """The key of its base, where it names one."""
        return (self.command.get("base") or {}).get("key", "")

    @property
    def digest(self) -> str:
        return (self.command.get("adapter") or {}).get("digest", "")


class LocalBackend:
    """Commands in, events out, for as long as the process lives; the worker behind may come and go."""

    def __init__(
        self,
        options: WorkerOptions,
        limit: int = 512,
        on_verdict: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.clock = time.monotonic
        self.options = options
        self.limit = limit
        self.on_verdict = on_verdict
        self.restarts = 0
        self.device = ""
        self.last_status: dict[str, Any] | None = None
        self.closing = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inbox: deque[tuple[Any, ...]] = deque()
        self._entries: dict[str, Entry] = {}
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = os.pipe()  # closed by __del__: cancellations may come late
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        # Owned by the I/O thread
        self._worker: WorkerProcess | None = None
        self._residents = Residents()
        self._suspects = Suspects()
        self._failures = 0
        self._not_before = 0.0
        self._stop_at: float | None = None

    # From any thread

    def submit(self, request_id: str, request: Request, sink: Sink) -> None:
        user, params, more = request.user, request.params.given(), request.continue_last
        command = {"type": "generate", "user": user, "params": params, "continue_last": more, **asked(request)}
        self._submit(request_id, command, sink)

    def count(self, request_id: str, request: Request, sink: Sink) -> None:
        self._submit(request_id, {"type": "count", **asked(request)}, sink)

    def load(self, request_id: str, base: BaseSpec, adapters: list[AdapterSpec], pin: bool | None, sink: Sink) -> None:
        self._submit(request_id, {"type": "load", "base": base, "adapters": adapters, "pin": pin}, sink)

    def unload(self, request_id: str, sink: Sink) -> None:
        self._submit(request_id, {"type": "unload"}, sink)

    def evict(self, request_id: str, digest: str, sink: Sink) -> None:
        self._inbox.append(("forget", digest))
        if self.ready:
            self._submit(request_id, {"type": "evict", "digest": digest}, sink)
        else:
            self._wake()
            sink({"type": "reply", "id": request_id, "data": {"freed_bytes": 0}})

    def status(self, request_id: str, sink: Sink) -> None:
        self._submit(request_id, {"type": "status"}, sink)

    def _submit(self, request_id: str, command: Mapping[str, Any], sink: Sink) -> None:
        """Hand a command over; `sink` hears its events on the I/O thread. Never blocks.

        Raises ValueError where the command is too long for a line.
        """
        command = {"id": request_id, **command}
        line = encode(command)
        with self._lock:
            refusal = self._refusal(line)
            if refusal is None:
                self._entries[command["id"]] = Entry(command, line, sink)
                self._inbox.append(("submit", command["id"]))
                self._ensure_thread()
        if refusal is None:
            self._wake()
        else:
            sink(failure(command["id"], refusal))

    def _refusal(self, line: bytes) -> str | None:
        if self.closing:
            return "shutting_down"
        waiting = sum(len(entry.line) for entry in self._entries.values() if not entry.sent)
        if len(self._entries) >= self.limit or waiting + len(line) > MAX_WAITING_BYTES:
            return "queue_full"
        return None

    def cancel(self, request_id: str) -> None:
        self._inbox.append(("cancel", request_id))
        self._wake()

    def wait_unused(self, digest: str, timeout: float) -> bool:
        """Block (a worker thread, never an event loop) until no request uses the adapter."""

        def unused() -> bool:
            return not any(entry.digest == digest for entry in self._entries.values())

        with self._changed:
            return self._changed.wait_for(unused, timeout)

    @property
    def ready(self) -> bool:
        worker = self._worker
        return worker is not None and worker.ready

    @property
    def state(self) -> str:
        worker = self._worker
        if worker is not None:
            return "ready" if worker.ready else "starting"
        if self.closing:
            return "closed"
        return "stopped" if self._failures == 0 else "failed"

    def snapshot(self) -> Snapshot:
        worker = self._worker
        return {
            "state": self.state,
            "pid": worker.pid if worker else None,
            "device": self.device,
            "restarts": self.restarts,
            "in_flight": len(self._entries),
        }

    def close(self, timeout: float = 8.0) -> None:
        """End the worker in order (what runs hears `shutting_down`), and wait for it. Safe to repeat."""
        with self._lock:
            self.closing = True
            thread = self._thread
        self._wake()
        # (also from atexit, where daemon threads still run)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            worker = self._worker
            if thread.is_alive() and worker is not None:
                worker.kill()
                thread.join(1.0)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass  # it is being woken already

    def __del__(self) -> None:
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine-io", daemon=True)
            self._thread.start()

    # On the I/O thread

    def _run(self) -> None:
        while True:
            try:
                if self._turn():
                    return
            except Exception:  # noqa: BLE001  (whatever it is: nobody may wait without end, and the next use must work)
                logger.exception("the engine's I/O thread failed")
                self._lost("engine_error", "internal")

    def _turn(self) -> bool:
        """One round: inbox, process, socket. True at the end."""
        self._read_inbox()
        if self.closing and self._shut_down():
            return True
        if not self.closing:
            self._start_if_wanted()
        worker = self._worker
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            if worker is not None:
                mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.wants_write else 0)
                selector.register(worker.socket, mask)
            patience = self._patience()
            began = self.clock()
            ready = {key.fileobj: mask for key, mask in selector.select(patience)}
            waited = self.clock() - began
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if worker is not None:
            # A turn that comes late says that this process was starved, not that the worker was silent: what it sent
            # meanwhile lies in the socket, unread. Only the time that was meant for listening counts.
            listened = min(waited, patience or 0.0)
            worker.listened += listened
            worker.silence += listened
            self._serve(worker, ready.get(worker.socket, 0))
        return False

    def _patience(self) -> float | None:
        if self._worker is not None or self.closing:
            return TICK
        if self._wanted():
            return max(0.0, self._not_before - time.monotonic())
        return None

    def _serve(self, worker: WorkerProcess, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                worker.flush()
            if mask & selectors.EVENT_READ:
                worker.receive(self._handle)
            elif worker.exited():
                raise WorkerGoneError("exited")
        except WorkerGoneError as gone:
            logger.debug("engine: %s", gone)
            self._lost("engine_crashed")
            return
        if worker.ready and worker.silence > self.options.heartbeat_timeout:
            logger.error("engine: no sign of life for %.0f s, killing it", worker.silence)
            worker.kill()
        elif not worker.ready and worker.listened > self.options.start_timeout:
            logger.error("engine: not ready after %.0f s, killing it", worker.listened)
            worker.kill()

    def _read_inbox(self) -> None:
        while self._inbox:
            what, argument = self._inbox.popleft()
            if what == "submit":
                self._accept(argument)
            elif what == "cancel":
                self._cancel(argument)
            elif what == "forget":
                self._residents.forget(argument)

    def _accept(self, request_id: str) -> None:
        entry = self._entries.get(request_id)
        if entry is None:
            return  # ended meanwhile, with everything that waited
        self._residents.note(entry.command)
        worker = self._worker
        wait = self._suspects.wait(entry.command)
        if entry.sent:
            pass  # with everything that waited, when the worker became ready
        elif wait:
            self._finish(failure(request_id, "engine_unavailable", {"retry_after": max(1.0, wait)}))
        elif worker is not None and worker.ready:
            self._send(worker, entry)
        elif entry.command["type"] not in STARTS:
            self._finish(failure(request_id, "engine_unavailable"))
        elif self._failures >= GIVE_UP_AFTER and time.monotonic() < self._not_before:
            self._finish(self._unavailable(request_id))
        else:
            self._tell_starting(entry)

    def _send(self, worker: WorkerProcess, entry: Entry) -> None:
        entry.sent = True
        entry.tries += 1
        worker.send(entry.line)

    def _cancel(self, request_id: str) -> None:
        entry = self._entries.get(request_id)
        if entry is None:
            return
        if entry.sent and self._worker is not None:
            self._worker.send(encode({"type": "cancel", "id": request_id}))
        elif entry.command["type"] == "generate":
            self._finish(cancelled(request_id, entry.digest or entry.base))
        else:
            self._finish(failure(request_id, "cancelled"))

    # The worker's life

    def _wanted(self) -> bool:
        waiting = any(not entry.sent for entry in list(self._entries.values()))
        return self._worker is None and not self.closing and (waiting or self._residents.plan is not None)

    def _start_if_wanted(self) -> None:
        if not self._wanted() or time.monotonic() < self._not_before:
            return
        try:
            self._worker = WorkerProcess(self.options)
        except OSError as error:
            logger.error("engine: cannot start: %s", error)
            self._start_failed()
            return
        logger.info("engine: started, pid %s", self._worker.pid)
        for entry in list(self._entries.values()):
            self._tell_starting(entry)

    def _tell_starting(self, entry: Entry) -> None:
        name = (entry.command.get("base") or {}).get("name", "")
        event: Event = {
            "type": "loading",
            "id": entry.command["id"],
            "stage": "starting",
            "progress": 0.0,
            "name": name,
        }
        if entry.command["type"] != "count":
            self._deliver(entry, event)

    def _ready(self, worker: WorkerProcess, event: dict[str, Any]) -> None:
        worker.ready = True
        self.device = event.get("device", "")
        logger.info("engine: ready on %s after %.1f s", self.device, time.monotonic() - worker.started)
        restore = self._residents.command([entry.command for entry in list(self._entries.values())])
        if restore is not None:
            worker.send(encode(restore))
        for entry in list(self._entries.values()):
            if not entry.sent:
                self._send(worker, entry)

    def _lost(self, code: str, how: str = "") -> None:
        """The worker is gone: everything that it was doing fails, what it held is remembered."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        how = worker.end() or how
        self.restarts += worker.ready
        logger.log(logging.INFO if self.closing else logging.ERROR, "engine: pid %s ended: %s", worker.pid, how)
        self.last_status = None
        if self.closing:
            code = "shutting_down"
        suspect = self._suspects.key if code == "engine_crashed" else ""
        loading = bool(suspect) and self._suspects.loading
        self._tell_end(code, how, suspect, loading)
        if not worker.ready:
            self._start_failed()
            return
        healthy = worker.completed > 0 or time.monotonic() - worker.started > HEALTHY_AFTER
        if suspect:  # at most that base's fault: the others are served at once
            restore = not loading and self._suspects.died_holding(healthy)
            self._failures, self._not_before = 0, time.monotonic()
        else:
            self._failures = 0 if healthy else self._failures + 1
            self._not_before = time.monotonic() + (0 if healthy else self._backoff())
            restore = self._failures < GIVE_UP_AFTER
        self._suspects.forget_process()
        # A worker that died over the restoration itself would do so again.
        if self._residents.plan is None and restore:
            self._residents.plan_again()
        else:
            self._residents.drop()

    def _tell_end(self, code: str, how: str, suspect: str, loading: bool) -> None:
        """What the worker was doing fails. Where it was `loading` the base `suspect`, requests for others only waited,
        and still do; a base that ends the process again is refused."""
        reason = self._suspects.died_loading(how) if loading else ""
        for request_id, entry in list(self._entries.items()):
            its_base = entry.base == suspect
            waited = loading and entry.base and not its_base and not entry.begun and entry.tries <= MAX_TRIES
            if entry.sent and waited:
                entry.sent = False
            elif entry.sent:
                named = {"base": entry.command["base"]["name"]} if loading and its_base else {}
                self._finish(failure(request_id, code, {"reason": how, **named}))
            elif reason and its_base:
                self._finish(failure(request_id, "base_unsupported", {"reason": reason}))
        if reason and self.on_verdict is not None:
            self.on_verdict({"type": "refusal", "key": suspect, "reason": reason})

    def _start_failed(self) -> None:
        self._failures += 1
        self._not_before = time.monotonic() + self._backoff()
        self._residents.drop()
        if self._failures >= GIVE_UP_AFTER:
            for request_id in list(self._entries):
                self._finish(self._unavailable(request_id))

    def _backoff(self) -> float:
        return min(MAX_BACKOFF, 0.5 * 2.0 ** (self._failures - 1))

    def _unavailable(self, request_id: str) -> Event:
        wait = max(1.0, self._not_before - time.monotonic())
        return failure(request_id, "engine_unavailable", {"retry_after": wait})

    def _shut_down(self) -> bool:
        """Steps of the orderly end; true when the worker is gone and nobody waits."""
        for request_id, entry in list(self._entries.items()):
            if not entry.sent:
                self._finish(failure(request_id, "shutting_down"))
        worker = self._worker
        if worker is not None and self._stop_at is None:
            self._stop_at = time.monotonic() + SHUTDOWN_GRACE
            worker.send(encode({"type": "shutdown"}))
        if worker is not None and (not worker.ready or time.monotonic() > (self._stop_at or 0)):
            worker.kill()  # one that still imports has nothing to lose
        return worker is None

    # Events

    def _handle(self, event: Any) -> None:
        worker = self._worker
        kind = event.get("type")
        if worker is None:
            return
        if kind == "ready":
            self._ready(worker, event)
        elif kind == "heartbeat":
            self.last_status = event.get("status") or {}
            self._residents.seen(self.last_status)
        elif kind == "base_load":
            self._suspects.heard(event)
        elif kind in {"proof", "refusal", "damage", "change"}:
            if self.on_verdict is not None:
                self.on_verdict(event)
        elif event.get("id") in self._entries:
            if kind == "done":
                worker.completed += 1
                self._residents.answered(self._entries[event["id"]].command)
            if is_final(event):
                self._finish(event)
            else:
                self._entries[event["id"]].begun |= kind == "token"
                self._deliver(self._entries[event["id"]], event)
        elif event.get("id") == Residents.COMMAND_ID and kind in ("reply", "error"):
            self._residents.plan = None  # for better or worse: it is not tried again

    def _deliver(self, entry: Entry, event: Event) -> None:
        if not entry.sink(event):
            entry.sink = deaf
            self._inbox.append(("cancel", entry.command["id"]))

    def _finish(self, event: Event) -> None:
        with self._changed:
            entry = self._entries.pop(event["id"])
            self._changed.notify_all()
        entry.sink(event)


def deaf(event: Event) -> bool:
    return True


def asked(request: Request) -> dict[str, Any]:
    prompt = {"messages": request.messages} if request.messages is not None else {"prompt": request.prompt}
    return {"base": request.base, "adapter": request.adapter, **prompt}
