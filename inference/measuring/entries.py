"""What is posted to the recorder. Times `at` are Unix times, all others seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """One request as it ended. `stages`: as in `Trace`; `gaps`: tokens by bucket of the time since the one before."""

    at: float
    request_id: str
    user_id: int
    token_ref: int
    model: str
    digest: str
    reason: str  # as in `Done`, or "error"
    code: str = ""  # of the error
    detail: str = ""  # of the error; nothing that a user wrote
    total: float = 0.0
    ttft: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    gaps: Mapping[int, int] = field(default_factory=dict)
    gap_seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    spans: Sequence[tuple[str, float, float]] = ()  # stages in their order, each from and until so long after its begin
    members: Sequence[str] = ()  # slugs of the adapters, where `model` is a blend of them
    traceparent: str = ""  # of the W3C, as the client sent it
    prompt: str = field(default="", repr=False)  # its end, and of the answer the beginning; "" where none is kept
    answer: str = field(default="", repr=False)


@dataclass(frozen=True)
class Refusal:
    """A request that came to no model. `user_id`: 0 where nobody knows who asked."""

    at: float
    code: str
    user_id: int


@dataclass(frozen=True)
class EngineIncident:
    """As `Happened` of the protocol, and what the backend tells of the engine's process."""

    at: float
    kind: str
    key: str
    name: str
    seconds: float
    reason: str


@dataclass(frozen=True)
class EngineSample:
    at: float
    status: Mapping[str, Any]  # as in the protocol
    web_rss: int  # bytes that the web process holds
