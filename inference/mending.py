"""Requests that met a damaged copy or a changed base: the registry sees to it, and they are asked once more.

The engine never serves what is not what its name says; it answers `store_damaged` or `base_changed` before the first
token. Such an answer is held back here while a thread of its own has the registry make the copy again or look at the
base again. Where that helps, the request goes to the engine a second time and nobody notices; else it hears what is
wrong.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import connections

from inference.backends.interface import Backend, Event, Request, Sink, cancelled, failure, is_final
from inference.engine.protocol import AdapterSpec, BaseSpec, Failed

from .errors import InferenceError

logger = logging.getLogger(__name__)

CODES = frozenset({"store_damaged", "base_changed"})
PATIENCE = 15.0  # seconds that a request waits for somebody else who is at its adapter
PAUSE = 0.1  # seconds between looks at whether they have ended


@dataclass(frozen=True)
class Subject:
    """What is to be seen to: a stored copy, or a base."""

    digest: str = ""
    key: str = ""
    path: str = ""

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Subject:
        """Of an event of the engine's, or of the detail of its error."""
        return cls(about.get("digest", ""), about.get("key", ""), about.get("path", ""))


@dataclass
class BackendCall:
    """What is asked of the backend. `ask(base, sink)` asks it, also again and with another spec of the same base.
    `left`: nobody waits for it any more."""

    id: str
    base: BaseSpec
    ask: Callable[[BaseSpec, Sink], None]
    cancelled: Event  # its end where it is cancelled while its error is held back
    left: bool = False


@dataclass
class Held:
    """A request whose error is held back. Who draws the ticket speaks to its sink: the mending or a cancellation."""

    call: BackendCall
    error: Failed
    sink: Sink
    ticket: list[None] = field(default_factory=lambda: [None])

    def claim(self) -> bool:
        try:
            self.ticket.pop()
        except IndexError:
            return False
        return True


class Mending:
    """Stands between the manager and its backend for whatever needs a base: `submit`, `count`, `load` and `cancel` are
    the backend's, raise as they do, and may be called like them: from any thread, also by a garbage collection in the
    middle of anything, so `cancel` takes no lock."""

    def __init__(
        self, backend: Backend, settle: Callable[[Subject, threading.Event], BaseSpec | None] | None = None
    ) -> None:
        """`settle(subject, closing)` returns what to ask with instead of the base's spec; None: as before.

        It raises InferenceError where asking again would not help.
        """
        self.backend = backend
        self.settle = settle or settle_with_registry
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine-mending")
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._jobs: dict[Subject, list[Held]] = {}  # under way or about to be, with those who wait for it
        self._held: dict[str, Held] = {}
        self._calls: dict[str, BackendCall] = {}  # until their first final event

    def submit(self, request_id: str, request: Request, sink: Sink) -> None:
        def ask(base: BaseSpec, sink: Sink) -> None:
            self.backend.submit(request_id, replace(request, base=base), sink)

        digest = request.adapter["digest"] if request.adapter else request.base["key"]
        self._ask(BackendCall(request_id, request.base, ask, cancelled(request_id, digest)), sink)

    def count(self, request_id: str, request: Request, sink: Sink) -> None:
        def ask(base: BaseSpec, sink: Sink) -> None:
            self.backend.count(request_id, replace(request, base=base), sink)

        self._ask(BackendCall(request_id, request.base, ask, failure(request_id, "cancelled")), sink)

    def load(self, request_id: str, base: BaseSpec, adapters: list[AdapterSpec], pin: bool | None, sink: Sink) -> None:
        def ask(base: BaseSpec, sink: Sink) -> None:
            self.backend.load(request_id, base, adapters, pin, sink)

        self._ask(BackendCall(request_id, base, ask, failure(request_id, "cancelled")), sink)

    def cancel(self, request_id: str) -> None:
        call = self._calls.get(request_id)
        if call is not None:
            call.left = True
        held = self._held.get(request_id)
        if held is None or not self._end(held):
            self.backend.cancel(request_id)

    def heard(self, event: Mapping[str, Any]) -> None:
        """The engine reports damage or a change that no request may be waiting for."""
        self._see_to(Subject.of(event))

    def close(self) -> None:
        """Wait for the job under way; who still waits hears `shutting_down`."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            left = [held for waiting in self._jobs.values() for held in waiting]
            self._jobs.clear()
        for held in left:
            self._refuse(held, InferenceError("shutting_down"))

    # Inside

    def _ask(self, call: BackendCall, sink: Sink) -> None:
        def first(event: Event) -> bool:
            if event["type"] == "error" and event["code"] in CODES:
                self._hold(Held(call, event, sink))
                return True
            if is_final(event):
                self._calls.pop(call.id, None)
            return sink(event)

        self._calls[call.id] = call
        try:
            call.ask(call.base, first)
        except BaseException:
            self._calls.pop(call.id, None)
            raise

    def _hold(self, held: Held) -> None:
        self._held[held.call.id] = held
        # A cancellation may have gone to the engine when this error was on its way back.
        if not held.call.left or not self._end(held):
            self._see_to(Subject.of(held.error["detail"]), held)

    def _end(self, held: Held) -> bool:
        """End a request that was cancelled while its error is held back; false where somebody else speaks to it."""
        if not held.claim():
            return False
        self._forget(held.call)
        held.sink(held.call.cancelled)
        return True

    def _forget(self, call: BackendCall) -> None:
        self._held.pop(call.id, None)
        self._calls.pop(call.id, None)

    def _see_to(self, subject: Subject, held: Held | None = None) -> None:
        with self._lock:
            closing = self._closing.is_set()
            if not closing:
                new = subject not in self._jobs
                waiting = self._jobs.setdefault(subject, [])
                if held is not None:
                    waiting.append(held)
                if new:
                    self._pool.submit(self._work, subject)
        if closing and held is not None:
            self._refuse(held, InferenceError("shutting_down"))

    def _work(self, subject: Subject) -> None:
        refusal: InferenceError | None = None
        base: BaseSpec | None = None
        try:
            base = self.settle(subject, self._closing)
        except InferenceError as error:
            refusal = error
        except Exception:  # noqa: BLE001  (the database or a disk may be away: nobody may wait without end)
            logger.exception("%s could not be seen to", subject)
            refusal = InferenceError("store_repairing" if subject.digest else "base_changed")
        with self._lock:
            waiting = self._jobs.pop(subject, [])
        for held in waiting:
            if refusal is not None:
                self._refuse(held, refusal)
            else:
                self._ask_again(held, base)

    def _refuse(self, held: Held, refusal: InferenceError) -> None:
        if held.claim():
            self._forget(held.call)
            held.sink(failure(held.call.id, refusal.code, {**held.error["detail"], **refusal.detail}))

    def _ask_again(self, held: Held, base: BaseSpec | None) -> None:
        if not held.claim():
            return  # cancelled meanwhile
        call = held.call

        def second(event: Event) -> bool:
            if event["type"] == "error" and event["code"] == "store_damaged":
                event["code"] = "adapter_load_failed"  # the registry found nothing wrong with the copy
            return held.sink(event)

        call.ask(base or call.base, second)
        self._forget(call)
        if call.left:  # between the ticket and now: the backend did not know the request then
            self.backend.cancel(call.id)


def settle_with_registry(subject: Subject, closing: threading.Event) -> BaseSpec | None:
    """See to a copy or a base in the registry. Takes as long as hashing and copying do. Raises InferenceError."""
    try:
        if not subject.digest:
            return settle_base(subject)
        settle_copy(subject.digest, closing)
        return None
    finally:
        connections.close_all()  # own threads close their connections


def settle_copy(digest: str, closing: threading.Event) -> None:
    """Raises InferenceError `store_damaged`, `store_repairing`, `adapter_inactive`."""
    from adapters.lifecycle.mending import Outcome, mend

    deadline = time.monotonic() + PATIENCE
    while (outcome := mend(digest)) is Outcome.BUSY:
        if time.monotonic() > deadline or closing.wait(PAUSE):
            raise InferenceError("store_repairing")
    if outcome is Outcome.FAILED:
        raise InferenceError("store_damaged")
    if outcome is Outcome.UNUSED:
        raise InferenceError("adapter_inactive")


def settle_base(subject: Subject) -> BaseSpec:
    """Raises InferenceError `base_changed` where the content is another now: whoever asks again is answered by that."""
    from adapters.bases.registry import recheck

    row = recheck(subject.path, subject.key)
    if row is None:
        raise InferenceError("base_changed")
    return {"key": row.key, "path": row.path, "name": row.name, "signature": row.signature}
