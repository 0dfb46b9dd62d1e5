"""A vLLM fleet as a `Backend`: requests go to the address of their base, an adapter under its digest as its name.

Any thread calls in here. `flights.py` is what the threads share, under its lock; all else belongs to the one thread
with an event loop (`loop.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from django.utils.translation import gettext_noop

from inference.backends.interface import OnVerdict, Request, Sink, State, Worker, cancelled, failure
from inference.engine.errors import EngineError
from inference.engine.protocol import AdapterSpec, BaseSpec

from .asking import Asking
from .catalogue import refusal
from .flights import Flight, Flights, OwnUses, Uses
from .loop import FleetLoop
from .replies import Replies
from .resources import FleetOptions, Resources
from .watching import Watching, status
from .wire import StatusError

logger = logging.getLogger(__name__)

LONGEST_PROMPT = 16 * 2**20  # characters
LINGERING = 2.0  # seconds that others are told of a use after its end, so that the next one costs nothing
RENEWING = 10.0  # seconds between looks at what they are told


class FleetBackend:
    """See `interface.Backend`. There is nothing to start or to load, so `ready` is always true."""

    def __init__(
        self, options: FleetOptions, on_verdict: OnVerdict = lambda event: None, uses: Uses | None = None
    ) -> None:
        self.options = options
        self.on_verdict = on_verdict
        self.flights = Flights(options.limit, options.user_limit)
        self.uses = uses or OwnUses()
        self.resources = Resources(options)
        self.asking = Asking(self.resources, self.flights)
        self.replies = Replies(self.resources, self.asking)
        self.watching = Watching(self.resources)
        self._loop = FleetLoop()
        self._tasks: set[asyncio.Task[None]] = set()  # that go on until the end
        self._tidying: asyncio.TimerHandle | None = None

    @property
    def ready(self) -> bool:
        return not self.flights.closed

    @property
    def last_status(self) -> dict[str, Any] | None:
        return None if self.watching.seen is None else self._status()

    def snapshot(self) -> Worker:
        seen = self.watching.seen
        state: State = "stopped" if seen is None else "ready" if any(one["reachable"] for one in seen) else "failed"
        return {
            "state": "closed" if self.flights.closed else state,
            "pid": None,
            "device": "vllm",
            "restarts": 0,
            "in_flight": len(self.flights),
        }

    # Asked

    def submit(self, request_id: str, request: Request, sink: Sink) -> None:
        if request.adapter is not None and request.adapter.get("members"):
            sink(failure(request_id, "fleet_cannot", {"what": gettext_noop("blending adapters")}))
            return
        digests = (request.adapter["digest"],) if request.adapter else ()
        flight = Flight(request_id, sink, request.user, digests, check_length(request))
        flight.end = cancelled(request_id, *digests or (request.base["key"],))
        self._begin(flight, lambda: self.asking.answer(flight, request))

    def count(self, request_id: str, request: Request, sink: Sink) -> None:
        flight = Flight(request_id, sink, chars=check_length(request))
        self._begin(flight, lambda: self._reply(flight, self.replies.counted(request)))

    def cancel(self, request_id: str) -> None:
        self._loop.tell(partial(self._cancel, request_id))

    def load(self, request_id: str, base: BaseSpec, adapters: list[AdapterSpec], pin: bool | None, sink: Sink) -> None:
        async def loaded() -> dict[str, Any]:
            await self.replies.loaded(base, adapters, pin)
            return self._status()

        flight = Flight(request_id, sink, digests=tuple(adapter["digest"] for adapter in adapters))
        self._begin(flight, lambda: self._reply(flight, loaded()))

    def unload(self, request_id: str, sink: Sink) -> None:
        sink(failure(request_id, "fleet_cannot", {"what": gettext_noop("unloading a base model")}))

    def evict(self, request_id: str, digest: str, sink: Sink) -> None:
        flight = Flight(request_id, sink, refusable=False)  # nobody would take the adapter away later
        self._begin(flight, lambda: self._reply(flight, self.replies.evicted(digest, lambda: self.used(digest))))

    def status(self, request_id: str, sink: Sink) -> None:
        async def seen() -> dict[str, Any]:
            await self.watching.look()
            return self._status()

        flight = Flight(request_id, sink)
        self._begin(flight, lambda: self._reply(flight, seen()))

    def wait_unused(self, digest: str, timeout: float) -> bool:
        return self.flights.wait_unused(digest, timeout)

    def used(self, digest: str) -> bool:
        """Whether a request uses the adapter, of this portal or of another one. May block."""
        return self.flights.uses(digest) > 0 or self.uses.elsewhere(digest)

    def close(self, timeout: float = 8.0) -> None:
        self.flights.close()
        self._loop.end(self._end, timeout)
        self.resources.threads.shutdown(wait=False, cancel_futures=True)

    # On the event loop's thread

    def _begin(self, flight: Flight, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        refused = self.flights.add(flight)
        if refused is not None:
            flight.sink(failure(flight.id, refused))
        elif not self._loop.begin(lambda: self._fly(flight, make)):
            self.flights.tell(flight, failure(flight.id, "shutting_down"))

    async def _fly(self, flight: Flight, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        flight.task = asyncio.current_task()
        self._watch()
        begun = [digest for digest in flight.digests if self.uses.begin(digest)]
        try:
            if flight.cancelled:
                raise asyncio.CancelledError
            for digest in begun:  # others know it before it is sent
                await self.resources.off(partial(self.uses.write, digest))
            await make()
        except asyncio.CancelledError:
            closing = failure(flight.id, "shutting_down")
            self.flights.tell(flight, closing if self.flights.closed else flight.end or failure(flight.id, "cancelled"))
        except EngineError as error:
            self._fail(flight, error)
        except Exception:
            logger.exception("the fleet's request %s failed", flight.id)
            self._fail(flight, EngineError("engine_error", "The request failed."))
        finally:
            ended = [digest for digest in flight.digests if self.uses.end(digest)]
            if ended:
                self._tidy_soon()

    async def _reply(self, flight: Flight, made: Coroutine[Any, Any, dict[str, Any]]) -> None:
        try:
            self.flights.tell(flight, {"type": "reply", "id": flight.id, "data": await made})
        except StatusError as error:
            logger.warning("fleet: %s", error)
            raise refusal(error.status) from error

    def _fail(self, flight: Flight, error: EngineError) -> None:
        event = failure(flight.id, error.code, error.detail)
        event["message"], event["param"] = error.message, error.param
        self.flights.tell(flight, event)

    def _cancel(self, request_id: str) -> None:
        flight = self.flights.get(request_id)
        if flight is not None:
            flight.cancelled = True
            if flight.task is not None:
                flight.task.cancel()

    def _watch(self) -> None:
        if not self._tasks:
            forever = (self.watching.watch(self._looked), self._renewing())
            self._tasks = {asyncio.create_task(task) for task in forever}

    def _looked(self) -> None:
        self.on_verdict({"type": "heartbeat", "status": self._status()})

    async def _renewing(self) -> None:
        while True:
            await asyncio.sleep(RENEWING)
            await self.resources.off(self.uses.tidy)

    def _tidy_soon(self) -> None:
        if self._tidying is None and not self.flights.closed:
            self._tidying = asyncio.get_running_loop().call_later(LINGERING, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        if not self.flights.closed:
            self.resources.threads.submit(self.uses.tidy)

    async def _end(self) -> None:
        tasks = [flight.task for flight in self.flights.all() if flight.task is not None]
        for task in [*tasks, *self._tasks]:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        for flight in self.flights.all():
            self.flights.tell(flight, failure(flight.id, "shutting_down"))
        with suppress(RuntimeError):  # closed twice: the threads have ended
            await self.resources.off(self.uses.tidy)
        await self.resources.close()

    def _status(self) -> dict[str, Any]:
        return status(self.watching.seen or [], self.flights.uses, self.asking.tokens)


def check_length(request: Request) -> int:
    """Raises ValueError."""
    if request.chars > LONGEST_PROMPT:
        raise ValueError("the prompt is too long")
    return request.chars
