"""What an engine is to the web side. `LocalBackend` is one: a worker process on this machine; a fleet can be another.

An engine takes requests by identity: a base model by its key, an adapter by its digest, each with the folder where the
registry keeps it. An implementation may serve them from anywhere, as long as an answer comes from exactly these.

Every request has an id of its caller's choice, unique while it runs, and a sink. The sink hears the request's events in
order; the last of them is the only final one:

- asked (`submit`): `queued` whenever the place or the reason changes, `loading` while something is fetched, `prompt`
  for each part of what is wanted of the prompt itself, `token` for each piece of text, then `done` or `error`;
- `load`: `loading`, then `reply` or `error`;
- `count`, `unload`, `evict`, `status`: `reply` or `error`.

A refusal is an `error` event too (codes: `inference.errors.KINDS`); a call raises only what its docstring says. Sinks
are called on a thread of the engine's, one event at a time, and never block. A sink that returns false hears no more:
its request is to be cancelled. Every call may come from any thread and returns at once, except where it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Protocol

from typing_extensions import TypedDict

from inference.engine import protocol
from inference.engine.params import SamplingParams
from inference.engine.protocol import AdapterSpec, BaseSpec, Done, Failed, PromptPart, Reply, Token


class Queued(protocol.Queued):
    """`expected` (here and in Loading): seconds until the answer is likely to begin, where the web side knows."""

    expected: NotRequired[int]


class Loading(protocol.Loading):
    expected: NotRequired[int]


# What became of a request. One such object goes from the engine's line to the reader's frame.
Event = Queued | Loading | PromptPart | Token | Done | Failed | Reply
FINAL = frozenset({"done", "error", "reply"})
Sink = Callable[[Event], bool]  # false: nobody listens any more
# Hears what an engine says that is tied to no request: a `proof`, `refusal`, `damage`, `change`, `happened` or
# `heartbeat` of the protocol. Of a process of its own, `happened` has the kinds `engine_started`, `engine_crashed` and
# `engine_stopped` besides. Called like a sink.
OnVerdict = Callable[[dict[str, Any]], None]


CHARS_OF_TOKEN = 4  # about


def is_final(event: Event) -> bool:
    """Whether nothing follows `event` for its request."""
    return event["type"] in FINAL


def failure(request_id: str, code: str, detail: Mapping[str, Any] | None = None) -> Failed:
    return {
        "type": "error", "id": request_id, "code": code, "message": "", "param": None, "detail": dict(detail or {})
    }  # fmt: skip


def cancelled(request_id: str, digest: str) -> Done:
    """The end of an answer that was cancelled before it began. `digest`: as in `Done`."""
    return {
        "type": "done",
        "id": request_id,
        "finish_reason": "cancelled",
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0},
        "timings": {"queue": 0.0, "load": 0.0, "ttft": 0.0, "total": 0.0, "tokens_per_second": 0.0},
        "digest": digest,
    }


@dataclass(frozen=True)
class Reading:
    """What is wanted of a prompt itself; see `protocol.Reading`."""

    logprobs: int | None = None
    continuation: str | None = None
    echo: bool = False
    answer: bool = True

    @property
    def streams(self) -> bool:
        """Whether nothing is wanted that only a whole prompt can tell."""
        return self.logprobs is None and self.answer


@dataclass(frozen=True)
class Request:
    """One of `messages`, `prompt` and `tokens` for one model; `user` is the key of fairness."""

    user: str
    base: BaseSpec
    adapter: AdapterSpec | None = None
    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    params: SamplingParams = SamplingParams()
    continue_last: bool = False  # the last message is an answer's beginning
    tokens: list[int] | None = None
    reading: Reading = Reading()
    background: bool = False  # nobody waits for it

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.messages, self.prompt, self.tokens)) != 1:
            raise ValueError("exactly one of messages, prompt and tokens")

    @property
    def chars(self) -> int:
        """Characters of the prompt; of a token about as many as one has."""
        texts = [self.prompt or "", self.reading.continuation or "", *(m["content"] for m in self.messages or ())]
        return sum(map(len, texts)) + CHARS_OF_TOKEN * len(self.tokens or ())


State = Literal["stopped", "starting", "ready", "failed", "closed"]


class Worker(TypedDict):
    """An engine as its metrics and the status page show it."""

    state: State
    pid: int | None
    device: str
    restarts: int  # times that it ended unasked
    in_flight: int  # requests without their final event


class Backend(Protocol):
    """An engine. Making one starts nothing; the first request that needs it does."""

    @property
    def ready(self) -> bool:
        """Whether it can answer without being started first."""

    @property
    def last_status(self) -> dict[str, Any] | None:
        """What it held when it last said so (the data of `status`'s reply); None while it does not run."""

    def snapshot(self) -> Worker: ...

    def submit(self, request_id: str, request: Request, sink: Sink) -> None:
        """Ask for an answer. Raises ValueError where the prompt is too long to be handed over."""

    def count(self, request_id: str, request: Request, sink: Sink) -> None:
        """How many tokens the prompt has: `reply {tokens, context_length}`. Raises ValueError as `submit` does."""

    def cancel(self, request_id: str) -> None:
        """End a request within a step: `done` with reason `cancelled`. Nothing where it has ended."""

    def load(self, request_id: str, base: BaseSpec, adapters: list[AdapterSpec], pin: bool | None, sink: Sink) -> None:
        """Make a base and adapters resident. `pin` keeps the base or lets it go; None leaves that as it is."""

    def unload(self, request_id: str, sink: Sink) -> None:
        """Free the base after what runs has ended: `reply {freed_bytes}`."""

    def evict(self, request_id: str, digest: str, sink: Sink) -> None:
        """Drop an adapter once nothing uses it, and do not bring it back: `reply {freed_bytes}`."""

    def status(self, request_id: str, sink: Sink) -> None:
        """What it holds and does: `reply` with the data that `inference/engine/protocol.py` lists."""

    def wait_unused(self, digest: str, timeout: float) -> bool:
        """Block until no request uses the adapter, at most `timeout` seconds; false where one still does."""

    def close(self, timeout: float = 8.0) -> None:
        """End in order (what runs hears `shutting_down`), and wait for it. Safe to repeat."""
