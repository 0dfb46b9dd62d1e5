"""What the engine hands to a runner and gets back: plain values, so that the engine needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from inference.engine.scheduling.scheduler import Chunk
from inference.engine.scheduling.sequence import Sequence

from .errors import EngineError
from .protocol import AdapterSpec, BaseSpec, Stage


@dataclass
class BaseInfo:
    """A loaded base. `context` and `slots` bound what the scheduler may hand out; sizes in bytes. `vocabulary`: rows of
    the embedding, which every token id must be one of."""

    key: str
    name: str
    precision: str
    context: int
    slots: int
    eos: frozenset[int]
    bytes: int
    kv_bytes: int
    vocabulary: int


@dataclass
class Choice:
    """A sampled token; `token` is -1 where the logits were not finite, or where `error` ended the choice."""

    token: int
    logprobs: dict[str, Any] | None = None  # protocol.Logprob
    ended: bool = False  # the grammar allows nothing more
    error: EngineError | None = None


@dataclass
class ProofResult:
    digest: str
    ok: bool
    code: str
    message: str
    kl: float
    changed: float


@dataclass
class StepResult:
    """`choices[i]` belongs to chunk i and is None where the chunk did not reach its sequence's end. `probed` counts the
    tokens of a proof that the step took along; `proof` is there once that proof has ended, `proof_error` where it could
    not be carried on."""

    choices: list[Choice | None] = field(default_factory=list)
    proof: ProofResult | None = None
    probed: int = 0
    proof_error: EngineError | None = None


class Progress(Protocol):
    def __call__(self, stage: Stage, done: float) -> None: ...


class Loaded(Protocol):
    """An adapter that `read_adapter` brought into memory."""

    digest: str
    name: str
    rank: int

    @property
    def bytes(self) -> int: ...


class BaseRunner(Protocol):
    """A model behind the engine. All calls come from the engine's thread, except `read_adapter`."""

    device: str

    def load_base(self, spec: BaseSpec, progress: Progress) -> BaseInfo: ...

    def unload_base(self) -> int: ...

    def encode(
        self, spec: BaseSpec, messages: list[dict[str, str]] | None, prompt: str | None, continue_last: bool
    ) -> list[int]: ...

    def context_length(self, spec: BaseSpec) -> int: ...

    def decode(self, tokens: list[int]) -> str: ...

    def token_name(self, token: int) -> str:
        """A token of the loaded base as its tokenizer writes it."""
        ...

    def start(self, sequence: Sequence) -> None: ...

    def read_adapter(self, spec: AdapterSpec) -> Loaded: ...

    def add_adapter(self, loaded: Loaded) -> None: ...

    def remove_adapter(self, digest: str) -> None: ...

    def begin_proof(self, digest: str) -> None: ...

    def step(self, chunks: list[Chunk], proof_budget: int) -> StepResult:
        """One forward pass and one token for each sequence whose end it reached.

        Whatever it raises, nothing has been drawn or counted: the same chunks may be tried again. What fails at one
        row afterwards is that row's `error`. No chunks and no budget are a pass that belongs to nobody, or with no
        base a sign of life of the device: where that fails, the worker cannot go on.
        """
        ...

    def scrub(self, slot: int) -> None: ...

    def memory(self) -> dict[str, int]: ...
