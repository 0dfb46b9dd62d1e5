"""A worker process on this machine as a `Backend`: it starts with the first request that needs it.

Any thread calls in here. `entries.py` is what the threads share, under its lock; all else belongs to the one I/O
thread (`io_thread.py`), where `supervisor.py` leads the worker's life by the judgement of `restarts.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from inference.engine import protocol
from inference.engine.protocol import AdapterSpec, Asked, BaseSpec, Prompt

from .entries import Entries
from .interface import OnVerdict, Reading, Request, Sink, Worker, failure
from .io_thread import IoThread
from .process import WorkerOptions
from .supervisor import Supervisor


class LocalBackend:
    """Commands in, events out, for as long as the process lives; the worker behind may come and go."""

    def __init__(
        self,
        options: WorkerOptions,
        on_verdict: OnVerdict = lambda event: None,
        limit: int = 512,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries = Entries(limit)
        self._supervisor = Supervisor(options, self._entries, on_verdict, clock)
        self._io = IoThread(self._supervisor, clock)

    @property
    def ready(self) -> bool:
        return self._supervisor.ready

    @property
    def last_status(self) -> dict[str, Any] | None:
        return self._supervisor.last_status

    def snapshot(self) -> Worker:
        return self._supervisor.snapshot()

    def submit(self, request_id: str, request: Request, sink: Sink) -> None:
        self._submit(sink, {
            "type": "generate", "id": request_id, "user": request.user, "base": request.base,
            "adapter": request.adapter, "params": request.params.given(), "continue_last": request.continue_last,
            "reading": reading_of(request), "background": request.background, **prompt_of(request),
        })  # fmt: skip

    def count(self, request_id: str, request: Request, sink: Sink) -> None:
        asked = prompt_of(request)
        self._submit(
            sink, {"type": "count", "id": request_id, "base": request.base, "adapter": request.adapter, **asked}
        )

    def cancel(self, request_id: str) -> None:
        self._io.tell(partial(self._supervisor.cancel, request_id))

    def load(self, request_id: str, base: BaseSpec, adapters: list[AdapterSpec], pin: bool | None, sink: Sink) -> None:
        self._submit(sink, {"type": "load", "id": request_id, "base": base, "adapters": adapters, "pin": pin})

    def unload(self, request_id: str, sink: Sink) -> None:
        self._submit(sink, {"type": "unload", "id": request_id})

    def evict(self, request_id: str, digest: str, sink: Sink) -> None:
        self._io.tell(partial(self._supervisor.policy.residents.forget, digest))
        if self.ready:
            self._submit(sink, {"type": "evict", "id": request_id, "digest": digest})
        else:
            sink({"type": "reply", "id": request_id, "data": {"freed_bytes": 0}})

    def status(self, request_id: str, sink: Sink) -> None:
        self._submit(sink, {"type": "status", "id": request_id})

    def wait_unused(self, digest: str, timeout: float) -> bool:
        return self._entries.wait_unused(digest, timeout)

    def close(self, timeout: float = 8.0) -> None:
        self._entries.close()
        self._io.tell(lambda: None)
        self._io.wait(timeout)

    def _submit(self, sink: Sink, command: Asked) -> None:
        refusal = self._entries.add(command, sink)
        if refusal is None:
            self._io.tell(partial(self._supervisor.accept, command["id"]))
            self._io.start()
        else:
            sink(failure(command["id"], refusal))


def prompt_of(request: Request) -> Prompt:
    if request.tokens is not None:
        return {"tokens": request.tokens}
    return {"messages": request.messages} if request.messages is not None else {"prompt": request.prompt or ""}


def reading_of(request: Request) -> protocol.Reading | None:
    asked = request.reading
    if asked == Reading():
        return None
    return {
        "logprobs": asked.logprobs, "continuation": asked.continuation, "echo": asked.echo, "answer": asked.answer
    }  # fmt: skip
