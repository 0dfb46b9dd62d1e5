"""The requests in flight: how many there may be, and who hears how each ends."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Protocol

from inference.backends.interface import Event, Sink, is_final

MOST_CHARS = 64 * 2**20  # of all prompts in flight together


@dataclass
class Flight:
    """A request whose final event is still to come."""

    id: str
    sink: Sink
    user: str = ""
    digests: tuple[str, ...] = ()  # of the adapters that it uses
    chars: int = 0
    end: Event | None = None  # where it is cancelled before it has begun
    refusable: bool = True  # where there are too many
    task: asyncio.Task[None] | None = None  # of the event loop's thread, once it has begun
    cancelled: bool = False


class Uses(Protocol):
    """Which adapters have requests running, as other portals see it. Any thread may call; `begin` and `end` return at
    once, the others may block."""

    def begin(self, digest: str) -> bool:
        """A request uses it from now on. True where others do not know that yet: `write` tells them."""

    def end(self, digest: str) -> bool:
        """One uses it no more. True where it was the last: `tidy` tells others."""

    def write(self, digest: str) -> None: ...

    def tidy(self) -> None:
        """Also renews what has been told a while ago."""

    def elsewhere(self, digest: str) -> bool:
        """Whether another portal has requests running with it."""


class OwnUses:
    """There is no other portal."""

    def begin(self, digest: str) -> bool:
        return False

    def end(self, digest: str) -> bool:
        return False

    def write(self, digest: str) -> None:
        pass

    def tidy(self) -> None:
        pass

    def elsewhere(self, digest: str) -> bool:
        return False


class Flights:
    """Any thread may add, count and wait, under one lock; the event loop's thread alone finishes."""

    def __init__(self, limit: int, user_limit: int) -> None:
        self.limit, self.user_limit = limit, user_limit
        self.closed = False
        self._changed = threading.Condition()
        self._flights: dict[str, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def get(self, request_id: str) -> Flight | None:
        return self._flights.get(request_id)

    def all(self) -> list[Flight]:
        with self._changed:
            return list(self._flights.values())

    def add(self, flight: Flight) -> str | None:
        """The code of the refusal where it is not taken."""
        with self._changed:
            if self.closed:
                return "shutting_down"
            refusal = self._too_many(flight) if flight.refusable else None
            if refusal is None:
                self._flights[flight.id] = flight
            return refusal

    def _too_many(self, flight: Flight) -> str | None:
        others = self._flights.values()
        if len(others) >= self.limit or sum(other.chars for other in others) + flight.chars > MOST_CHARS:
            return "queue_full"
        if flight.user and sum(other.user == flight.user for other in others) >= self.user_limit:
            return "user_limit"
        return None

    def close(self) -> None:
        """Take no more."""
        with self._changed:
            self.closed = True

    def tell(self, flight: Flight, event: Event) -> bool:
        """Hand an event out. False where nobody listens any more."""
        if is_final(event):
            with self._changed:
                if self._flights.pop(flight.id, None) is None:
                    return True  # it has heard its end
                self._changed.notify_all()
        return flight.sink(event)

    def uses(self, digest: str) -> int:
        """Requests that use the adapter."""
        return sum(digest in flight.digests for flight in self.all())

    def wait_unused(self, digest: str, timeout: float) -> bool:
        """Block until none uses the adapter; false where one still does after `timeout` seconds."""

        def unused() -> bool:
            return not any(digest in flight.digests for flight in self._flights.values())

        with self._changed:
            return self._changed.wait_for(unused, timeout)
