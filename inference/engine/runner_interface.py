"""What the engine hands to a runner and gets back: plain values, so that the engine needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from inference.engine.scheduling.scheduler import Chunk
from inference.engine.scheduling.sequence import Sequence

from .errors import EngineError
from .faults import ENDS_PROCESS, one_line
from .protocol import AdapterSpec, BaseSpec, PromptLogprob, Stage

logger = logging.getLogger(__name__)


@dataclass
class BaseInfo:
    """A loaded base. `context` and `slots` bound what the scheduler may hand out; sizes in bytes. `vocabulary`: rows of
    the embedding, which every token id must be one of, unless an adapter has an embedding of another size."""

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
class SampledToken:
    """A sampled token; `token` is -1 where the logits were not finite, or where `error` ended the choice."""

    token: int
    logprobs: dict[str, Any] | None = None  # protocol.Logprob without its offset
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
    """`choices[i]` belongs to chunk i and is None where none is sampled. `scored`: by chunk, the next tokens of its
    prompt that are to be told, their offsets still to come, or why there are none. `probed` counts the tokens of a
    proof that the step took along; `proof` is there once that proof has ended, `proof_error` where it could not be
    carried on."""

    choices: list[SampledToken | None] = field(default_factory=list)
    proof: ProofResult | None = None
    probed: int = 0
    proof_error: EngineError | None = None
    scored: dict[int, list[PromptLogprob] | EngineError] = field(default_factory=dict)


class OnProgress(Protocol):
    def __call__(self, stage: Stage, done: float) -> None: ...


class Loaded(Protocol):
    """An adapter that `read_adapter` brought into memory. `vocabulary`: rows of its embedding; 0 for as many as the
    base's."""

    digest: str
    name: str
    rank: int

    @property
    def bytes(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...


class BaseRunner(Protocol):
    """A model behind the engine. All calls come from the engine's thread, except `read_adapter` and, on the thread that
    takes commands, `encode`, `manner` and `context_length`."""

    device: str

    def load_base(self, spec: BaseSpec, progress: OnProgress) -> BaseInfo: ...

    def unload_base(self) -> int: ...

    def encode(
        self, spec: BaseSpec, messages: list[dict[str, str]] | None, prompt: str | None, continue_last: bool,
        adapter: AdapterSpec | None = None,
    ) -> list[int]: ...  # fmt: skip

    def manner(self, spec: BaseSpec, adapter: AdapterSpec | None) -> tuple[frozenset[int], Mapping[str, Any]]:
        """(end tokens of the adapter's own, its defaults of sampling parameters)."""
        ...

    def context_length(self, spec: BaseSpec) -> int: ...

    def encode_pair(
        self, spec: BaseSpec, messages: list[dict[str, str]] | None, prompt: str | None, continuation: str,
        adapter: AdapterSpec | None = None,
    ) -> tuple[list[int], int]:  # fmt: skip
        """Tokens of a prompt and the text that goes on after it; the number of the first that holds some of that."""
        ...

    def decode(self, tokens: list[int], adapter: str | None = None) -> str:
        """The text of tokens of a resident adapter, or of the loaded base."""
        ...

    def spell(self, tokens: list[int], adapter: str | None = None) -> str:
        """The same with control tokens by their names."""
        ...

    def token_name(self, token: int, adapter: str | None = None) -> str:
        """A token as its tokenizer writes it; the base's for an adapter that is not resident."""
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


def sign_of_life(runner: BaseRunner, error: BaseException) -> None:
    """Raises `error` where a step that belongs to nobody fails as well, twice: a broken device, not a request."""
    for _ in range(2):
        try:
            runner.step([], 0)
        except ENDS_PROCESS:
            raise
        except BaseException as again:  # noqa: BLE001  (whatever it is)
            logger.error("a step that belongs to nobody failed: %s", one_line(again))
        else:
            return
    raise error
