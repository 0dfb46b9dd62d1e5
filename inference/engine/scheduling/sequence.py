"""One request as the engine sees it, from arrival to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from inference.engine.params import SamplingParams
from inference.engine.text.detokenizer import Detokenizer


class SequenceState(Enum):
    WAITING = "waiting"  # in the queue, or taken back to it
    RUNNING = "running"  # has a slot
    FINISHED = "finished"  # has had its last event


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
    state: SequenceState = SequenceState.WAITING
    slot: int = -1
    computed: int = 0
    cached: int = 0  # prompt tokens reused from an earlier turn
    prompt_length: int = field(init=False)
    admitted: float = 0.0
    load_seconds: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    pieces: int = 0
    cancelled: bool = False
    started: bool = False  # the runner knows it
    random: Any = None  # the sampler's generator of this sequence
    grammar: Any = None  # the sampler's constraint of this sequence
    logprobs: list[dict[str, Any]] = field(default_factory=list)  # not delivered yet
    reported: tuple[Any, ...] = ()  # last `queued` event, so that only changes are sent

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

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
