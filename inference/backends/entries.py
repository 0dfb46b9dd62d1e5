"""The requests in flight: how many there may be, which wait, who hears how each ends."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.engine.recipes import digests_of

from .interface import Event, Sink
from .process import encode

MAX_WAITING_BYTES = 64 * 2**20


@dataclass
class Entry:
    """A command whose final event is still to come. What changes belongs to the I/O thread."""

    command: Mapping[str, Any]
    line: bytes
    sink: Sink
    sent: bool = False
    begun: bool = False  # a piece of its answer, or of what was wanted of its prompt, was delivered
    tries: int = 0  # workers that it was sent to

    @property
    def id(self) -> str:
        return self.command["id"]

    @property
    def base(self) -> str:
        """The key of its base, where it names one."""
        return (self.command.get("base") or {}).get("key", "")

    @property
    def digest(self) -> str:
        return (self.command.get("adapter") or {}).get("digest", "")

    @property
    def digests(self) -> list[str]:
        """Of every stored copy that it uses: its adapter's, and of a blend its members'."""
        return digests_of(self.command.get("adapter"))


class Entries:
    """Any thread may add, close, count and wait, under one lock; the I/O thread alone finishes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.closed = False  # no more are taken, and those that are in hear their end
        self._changed = threading.Condition()
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, request_id: str) -> Entry | None:
        return self._entries.get(request_id)

    def all(self) -> list[Entry]:
        return list(self._entries.values())

    def add(self, command: Mapping[str, Any], sink: Sink) -> str | None:
        """Take a command; the code of the refusal where it is not taken. Raises ValueError where no line holds it."""
        line = encode(command)
        with self._changed:
            if self.closed:
                return "shutting_down"
            waiting = sum(len(entry.line) for entry in self._entries.values() if not entry.sent)
            if len(self._entries) >= self.limit or waiting + len(line) > MAX_WAITING_BYTES:
                return "queue_full"
            self._entries[command["id"]] = Entry(command, line, sink)
            return None

    def close(self) -> None:
        with self._changed:
            self.closed = True

    def finish(self, event: Event) -> None:
        """The last that an entry hears."""
        with self._changed:
            entry = self._entries.pop(event["id"])
            self._changed.notify_all()
        entry.sink(event)

    def wait_unused(self, digest: str, timeout: float) -> bool:
        """Block until no entry uses the adapter; false where one still does after `timeout` seconds."""

        def unused() -> bool:
            return not any(digest in entry.digests for entry in self._entries.values())

        with self._changed:
            return self._changed.wait_for(unused, timeout)
