"""One request as the engine sees it, from arrival to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from inference.engine.params import SamplingParams
from inference.engine.text.detokenizer import Detokenizer
from inference.engine.text.vocabulary import Offsets


class SequenceState(Enum):
    WAITING = "waiting"  # in the queue, or taken back to it
    RUNNING = "running"  # has a slot
    FINISHED = "finished"  # has had its last event


@dataclass
class Reading:
    """What is wanted of a prompt's own tokens, and how far that has come."""

    first: int = 0  # the token from which on they are told
    top: int | None = None  # probabilities with so many alternatives; None: none
    text: str | None = None  # of the prompt, where it is echoed
    echo: bool = False
    answer: bool = True
    told: int = field(init=False)  # the next token to be told
    offsets: Offsets = field(default_factory=Offsets)

    def __post_init__(self) -> None:
        self.told = self.first


@dataclass(eq=False)
class Sequence:
    """Prompt, answer so far, and where its keys and values lie.

    `tokens` holds prompt and answer; the first `computed` of them have their keys and values in slot `slot`.
    """

    id: str
    user: str
    base_key: str
    adapter: str | None  # content digest; None: the base itself
    tokens: list[int]
    params: SamplingParams
    arrived: float  # time.monotonic()
    text: Detokenizer
    ends: frozenset[int] = frozenset()  # end tokens of the adapter's own, beside the base's
    state: SequenceState = SequenceState.WAITING
    slot: int = -1
    computed: int = 0
    cached: int = 0  # prompt tokens reused from an earlier turn
    prompt_length: int = field(init=False)
    vocabulary: int = 0  # what its token ids have to be below; known once it is admitted
    admitted: float = 0.0
    load_seconds: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    pieces: int = 0
    started: bool = False  # the runner knows it
    random: Any = None  # the sampler's generator of this sequence
    grammar: Any = None  # the sampler's constraint of this sequence
    logprobs: list[dict[str, Any]] = field(default_factory=list)  # not delivered yet
    offsets: Offsets = field(default_factory=Offsets)  # of those that have logprobs
    reading: Reading | None = None
    background: bool = False  # nobody waits for it
    reported: tuple[Any, ...] = ()  # last `queued` event, so that only changes are sent

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    @property
    def answers(self) -> bool:
        """Whether an answer is wanted."""
        return self.reading is None or self.reading.answer

    @property
    def untold(self) -> bool:
        """Whether probabilities of its prompt are wanted that are not told yet."""
        reading = self.reading
        return reading is not None and reading.top is not None and reading.told < self.prompt_length

    @property
    def reusable(self) -> int:
        """Tokens whose keys and values may come from an earlier turn: what stands before the first logits wanted."""
        if self.reading is None or not self.untold:
            return len(self.tokens) - 1
        return max(0, self.reading.told - 1)

    def scored(self, start: int, stop: int) -> range:
        """Of positions `start:stop` those whose logits give the probability of a token that is to be told."""
        if self.reading is None or not self.untold:
            return range(0)
        return range(max(start, self.reading.told - 1), min(stop, self.prompt_length - 1))

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def finished(self) -> bool:
        """The one terminal predicate."""
        return self.state is SequenceState.FINISHED

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are still to be computed; 1 while decoding."""
        return len(self.tokens) - self.computed
