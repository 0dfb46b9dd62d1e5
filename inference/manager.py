"""The process-wide ModelManager, which the gateway asks: one engine, and what is expected of it and learnt from it.

Making one starts nothing; the engine's worker starts with the first request. It serves several event loops.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.conf import settings

from common.request_ids import request_id
from inference.backends.interface import Backend, Event, OnVerdict, Request, Sink, failure
from inference.backends.process import WorkerOptions
from inference.backends.stream import Stream
from inference.engine.config import EngineConfig
from inference.engine.protocol import AdapterSpec, BaseSpec, Logprob, PromptLogprob, Timings, Usage
from inference.estimates.load_times import keep, recall
from inference.estimates.wait_estimates import WaitEstimates
from inference.measuring.entries import EngineIncident, EngineSample
from inference.measuring.recorder import recorder, resident_set
from inference.measuring.trace import RequestTrace

from . import forking
from .errors import InferenceError
from .mending import Mending

if TYPE_CHECKING:
    from inference.backends.fleet.resources import FleetOptions

logger = logging.getLogger(__name__)

Call = Callable[[str, Sink], None]  # hands the engine a command under this id

RECALL_PATIENCE = 1.0  # seconds that the first request waits for earlier load times
REPLY_PATIENCE = 5.0  # seconds for a reply that needs no model
ENGINE_SETTINGS = (
    "RUNNER DEVICE PRECISION THREADS MAX_BATCH MAX_CONTEXT PREFILL_CHUNK KV_BYTES ADAPTER_BYTES "
    "MAX_GPU_MEMORY CUDA_GRAPHS NATIVE RAW_CONTROL_TOKENS QUEUE_LIMIT USER_LIMIT "
    "IDLE_UNLOAD"
).split()


@dataclass(frozen=True)
class WholeAnswer:
    """A whole answer. `digest`: content hash of the adapter that gave it, or the base's key."""

    text: str
    finish_reason: str
    usage: Usage
    timings: Timings
    digest: str
    logprobs: list[Logprob]
    stop: str | None = None
    echo: str = ""  # the prompt, where it was to be told
    prompt_logprobs: list[PromptLogprob] = field(default_factory=list)


class PartialAnswer:
    """An answer as far as it has come."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.logprobs: list[Logprob] = []
        self.echo = ""
        self.prompt_logprobs: list[PromptLogprob] = []

    def add(self, event: Event) -> WholeAnswer | None:
        """The whole answer, once `event` is its `done`."""
        if event["type"] == "token":
            self.text.append(event["text"])
            self.logprobs += event.get("logprobs") or []
        elif event["type"] == "prompt":
            self.echo += event["text"]
            self.prompt_logprobs += event["logprobs"]
        elif event["type"] == "done":
            self.logprobs += event.get("logprobs") or []
            return WholeAnswer(
                "".join(self.text),
                event["finish_reason"],
                event["usage"],
                event["timings"],
                event["digest"],
                self.logprobs,
                event.get("stop"),
                self.echo,
                self.prompt_logprobs,
            )
        return None


class ModelManager:
    """Requests in, streams of events out; the engine behind is any `Backend`."""

    def __init__(self, make_backend: Callable[[OnVerdict], Backend], history: bool = False) -> None:
        """`history`: keep load times in the database, and expect by those that are there."""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="engine-writer")
        self.backend = make_backend(self._on_verdict)
        self.mending = Mending(self.backend)
        self.expectations = WaitEstimates(EngineConfig.base_patience, self._on_load_time if history else None)
        self._recalled = self._writer.submit(recall, self.expectations) if history else None

    # Asking

    async def generate(
        self, request: Request, wake: asyncio.Event | None = None, trace: RequestTrace | None = None
    ) -> Stream:
        """Start a request. Refusals come as `error` events; leaving the stream's context cancels it.

        `wake`: as `Stream` takes it. `trace` sees every event at the moment when it comes.
        """
        await self._recall()

        def submit(request_id: str, sink: Sink) -> None:
            digest = request.adapter["digest"] if request.adapter else ""
            self.expectations.asked(request_id, request.base["key"], digest, time.monotonic())
            self.mending.submit(request_id, request, sink)

        return self._begin(submit, request.chars // 4, wake, trace)

    async def _recall(self) -> None:
        if self._recalled is not None:
            await asyncio.wait([asyncio.wrap_future(self._recalled)], timeout=RECALL_PATIENCE)
            self._recalled = None

    async def count_tokens(
        self, base: BaseSpec, messages: list[dict[str, str]] | None = None, prompt: str | None = None,
        adapter: AdapterSpec | None = None,
    ) -> tuple[int, int]:  # fmt: skip
        """(tokens of the prompt, the base's context length). Raises InferenceError."""
        request = Request("", base, adapter, messages, prompt)
        data = await self._reply(lambda request_id, sink: self.mending.count(request_id, request, sink))
        return data["tokens"], data["context_length"]

    # Operating

    @property
    def ready(self) -> bool:
        """Whether the engine can answer without being started first."""
        return self.backend.ready

    async def load(self, base: BaseSpec, adapters: list[AdapterSpec] | None = None, pin: bool | None = None) -> Stream:
        """Make a base and adapters resident: `loading` events, then `reply` or `error`.

        `pin` keeps the base until it is unloaded or unpinned; None leaves that as it is.
        """
        return self._begin(lambda request_id, sink: self.mending.load(request_id, base, adapters or [], pin, sink))

    async def unload(self) -> int:
        """Free the base after what runs has ended. Returns the bytes freed; 0 where nothing was loaded."""
        return (await self._reply(self.backend.unload)).get("freed_bytes", 0) if self.ready else 0

    async def status(self) -> dict[str, Any]:
        """The worker's state and, where it runs, what it holds. Starts nothing.

        Keys: `worker` {state, pid, device, restarts, in_flight} and `engine` (as in the protocol).
        """
        engine = self.backend.last_status
        if self.ready:
            try:
                engine = await self._reply(self.backend.status, REPLY_PATIENCE)
            except InferenceError as error:
                logger.warning("engine status: %s", error.code)
        return {"worker": self.backend.snapshot(), "engine": engine}

    # From threads (signals, hooks, process end)

    def look(self) -> None:
        """Begin to look at a fleet's addresses, every few seconds from now on. Returns at once."""
        self.backend.status(secrets.token_hex(8), lambda event: True)

    def release(self, digest: str) -> None:
        """An adapter is no longer served: the engine drops it after its last request. Returns at once."""
        self.backend.evict(secrets.token_hex(8), digest, lambda event: True)

    def drain(self, digest: str, timeout: float) -> bool:
        """Block until no request uses the adapter (at most `timeout` seconds), then evict it."""
        if not self.backend.wait_unused(digest, timeout):
            return False
        self.release(digest)
        return True

    def close(self, timeout: float = 8.0) -> None:
        """End the worker in order. Safe to repeat; later requests hear `shutting_down`."""
        self.backend.close(timeout)
        self.mending.close()
        self._writer.shutdown(wait=True)

    # Inside

    def _begin(
        self,
        call: Call,
        prompt_estimate: int = 0,
        wake: asyncio.Event | None = None,
        trace: RequestTrace | None = None,
    ) -> Stream:
        stream = Stream(engine_id(), self.mending.cancel, prompt_estimate, wake)
        deliver = weakref.WeakMethod(stream.deliver)

        def sink(event: Event) -> bool:
            now, ready = time.monotonic(), self.ready
            if trace is not None:
                trace.seen(event, ready, now)
            expected = self.expectations.seen(event, ready, now)
            if expected is not None and (event["type"] == "queued" or event["type"] == "loading"):
                event["expected"] = expected
            alive = deliver()
            heard = alive is not None and alive(event)
            if not heard:
                self.expectations.gone(event["id"])
            return heard

        try:
            call(stream.id, sink)
        except ValueError:
            sink(failure(stream.id, "prompt_too_long", {"limit": settings.MAX_PROMPT_CHARS}))
        return stream

    async def _reply(self, call: Call, timeout: float | None = None) -> dict[str, Any]:
        async with self._begin(call) as stream:
            try:
                async with asyncio.timeout(timeout):
                    return reply_of(await stream.final())
            except TimeoutError:
                raise InferenceError("engine_timeout") from None

    def _on_verdict(self, event: dict[str, Any]) -> None:
        """On the engine's I/O thread: hand the database work to a thread of its own."""
        kind, now = event["type"], time.time()
        if kind in {"damage", "change"}:
            self.mending.heard(event)
        elif kind == "heartbeat":
            recorder.post(EngineSample(now, event.get("status") or {}, resident_set()))
        elif kind == "happened":
            recorder.post(
                EngineIncident(now, **{name: event[name] for name in ("kind", "key", "name", "seconds", "reason")})
            )
        else:
            self._writer.submit(write_verdict, event)

    def _on_load_time(self, kind: str, key: str, seconds: float) -> None:
        self._writer.submit(keep, kind, key, seconds)


def engine_id() -> str:
    """Of a new request at the engine: the id of what came in, which logs on both sides name, and a part of its own."""
    return f"{request_id.get() or 'portal'}.{secrets.token_hex(8)}"


def reply_of(event: Event) -> dict[str, Any]:
    """The data of a `reply`. Raises InferenceError for an `error`."""
    if event["type"] == "reply":
        return event["data"]
    raise InferenceError.from_event(event) if event["type"] == "error" else InferenceError("engine_error")


def write_verdict(event: Mapping[str, Any]) -> None:
    from django.db import connection

    from adapters.bases.support import record_refusal
    from adapters.lifecycle.proofs import record_proof

    try:
        if event["type"] == "refusal":
            record_refusal(event["key"], event["reason"])
        else:
            found = {key: event[key] for key in ("ok", "code", "message", "kl", "changed")}
            record_proof(event["digest"], **found, base=event.get("base", ""))
    except Exception:  # noqa: BLE001  (a database that is away must not end the thread that writes verdicts)
        logger.exception("the engine's verdict on %s could not be written", event.get("digest") or event.get("key"))
    finally:
        connection.close()  # own threads close their connections


def engine_config() -> dict[str, Any]:
    """The worker's configuration: the ENGINE_* settings in lower case without the prefix, and two more."""
    config = {name.lower(): getattr(settings, f"ENGINE_{name}") for name in ENGINE_SETTINGS}
    return config | {
        "run_dir": str(settings.RUN_DIR),
        "log_format": settings.LOG_FORMAT,
        "log_level": logging.getLevelName(logging.getLogger().getEffectiveLevel()),
    }


def worker_options(log: str = "engine.log", **changes: Any) -> WorkerOptions:
    """`changes`: of the configuration, for another worker than the one that serves."""
    config = engine_config() | changes
    return WorkerOptions(
        config=config,
        starter=forking.starter_of(config["runner"]),
        log_path=settings.LOG_DIR / log,
        folder=settings.BASE_DIR,
        start_timeout=settings.ENGINE_START_TIMEOUT,
        heartbeat_timeout=settings.ENGINE_HEARTBEAT_TIMEOUT,
    )


def queue_limit() -> int:
    """Requests in flight."""
    return settings.ENGINE_QUEUE_LIMIT + settings.ENGINE_MAX_BATCH + 16


def fleet_options() -> FleetOptions:
    """By the VLLM_* settings and FLEET_DIR."""
    from inference.backends.fleet.catalogue import Address
    from inference.backends.fleet.resources import FleetOptions

    return FleetOptions(
        addresses=tuple(Address(url, base) for base, url in settings.VLLM_URL),
        folder=settings.FLEET_DIR,
        key=settings.VLLM_API_KEY,
        silence=settings.VLLM_TIMEOUT,
        limit=queue_limit(),
        user_limit=settings.ENGINE_USER_LIMIT,
        raw_control_tokens=settings.ENGINE_RAW_CONTROL_TOKENS,
    )


def make_backend(on_verdict: OnVerdict) -> Backend:
    """As INFERENCE_BACKEND says; only what it names is imported."""
    if settings.INFERENCE_BACKEND == "vllm":
        from inference.backends.fleet.backend import FleetBackend
        from inference.uses import SharedUses

        return FleetBackend(fleet_options(), on_verdict, SharedUses())
    from inference.backends.local import LocalBackend

    return LocalBackend(worker_options(), on_verdict, queue_limit())


_lock = threading.Lock()
_manager: ModelManager | None = None
_pid = 0


def get_manager() -> ModelManager:
    """The manager of this process (made on first use; a forked child gets its own)."""
    global _manager, _pid
    with _lock:
        if _manager is None or _pid != os.getpid():
            _manager, _pid = ModelManager(make_backend, history=True), os.getpid()
            atexit.register(close_manager, _pid)
        return _manager


def current_manager() -> ModelManager | None:
    """The manager where there is one already; for what need not happen when nothing was ever asked."""
    return _manager if _pid == os.getpid() else None


def set_manager(manager: ModelManager | None) -> ModelManager | None:
    """Put another manager in place (tests); returns the one before."""
    global _manager, _pid
    with _lock:
        before, _manager, _pid = _manager, manager, os.getpid()
        return before


def close_manager(pid: int | None = None) -> None:
    """End this process's worker, if it has one."""
    global _manager
    if pid is not None and pid != os.getpid():
        return  # inherited by fork: it is the parent's to close
    with _lock:
        manager, _manager = _manager, None
    if manager is not None:
        manager.close()
