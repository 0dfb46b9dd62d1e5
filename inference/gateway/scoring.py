"""How likely are these texts after these messages, by these models? For work that nobody waits for.

    async with contextlib.aclosing(score(grant, passages)) as scores:
        async for index, found in scores:
            ...

Each passage is asked by the one way to ask, so it is admitted, counted and ended like any answer; several run at once,
whatever their models, and whoever waits for an answer comes before all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass

from accounts.grants import Grant
from common.api import ApiError
from inference.backends.interface import Reading
from inference.engine.params import SamplingParams
from inference.engine.protocol import PromptLogprob, Usage

from .asking import Question, answer
from .targets import Target

AT_ONCE = 8
FULL = frozenset({"rate_limit_exceeded", "too_many_generations", "user_limit", "queue_full"})  # passes by itself
PAUSE = 2.0  # seconds until it is tried again where a refusal names none
LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Passage:
    """`text` after exactly one of `messages` (by the model's chat template) and `prompt`."""

    target: Target
    text: str
    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    alternatives: int = 0  # of each token


@dataclass(frozen=True)
class TextScore:
    """`tokens`: those of the text, each with the logarithm of its probability. `digest`: of what answered."""

    tokens: list[PromptLogprob]
    digest: str
    usage: Usage
    seconds: float = 0.0

    @property
    def logprob(self) -> float:
        """Of the whole text, in nats."""
        return sum(token["logprob"] or 0.0 for token in self.tokens)

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a token, in nats, as trainers tell it."""
        return -self.logprob / len(self.tokens)


async def score(
    grant: Grant, passages: Iterable[Passage], at_once: int = AT_ONCE
) -> AsyncGenerator[tuple[int, TextScore | ApiError]]:
    """(number of the passage, its score) as they come; of one that cannot be scored the error, which ends no other.

    Raises ApiError `revoked` where access is withdrawn. Closing the iterator cancels what runs.
    """
    left = iter(enumerate(passages))
    found: asyncio.Queue[tuple[int, TextScore | ApiError] | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_work(grant, left, found)) for _ in range(at_once)]
    try:
        running = len(tasks)
        while running:
            item = await found.get()
            if item is None:
                running -= 1
            elif isinstance(item[1], ApiError) and item[1].code == "revoked":
                raise item[1]
            else:
                yield item
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(
    grant: Grant,
    left: Iterator[tuple[int, Passage]],
    found: asyncio.Queue[tuple[int, TextScore | ApiError] | None],
) -> None:
    try:
        for index, passage in left:
            try:
                await found.put((index, await one(grant, passage)))
            except ApiError as error:
                await found.put((index, error))
    finally:
        found.put_nowait(None)


async def one(grant: Grant, passage: Passage) -> TextScore:
    """Waits as long as there is no room. Raises ApiError."""
    while True:
        try:
            return await score_once(grant, passage)
        except ApiError as error:
            if error.code not in FULL:
                raise
            await asyncio.sleep(min(LONGEST_PAUSE, error.retry_after or PAUSE))


async def score_once(grant: Grant, passage: Passage, bounded: bool = False) -> TextScore:
    """Refused where there is no room. `bounded`: as `limits_of` takes it. Raises ApiError."""
    question = Question(
        passage.target,
        SamplingParams(max_tokens=1),
        passage.messages,
        passage.prompt,
        reading=Reading(passage.alternatives, passage.text, answer=False),
        background=True,
    )
    whole = await answer(grant, question, bounded)
    return TextScore(whole.prompt_logprobs, whole.digest, whole.usage, whole.timings["total"])
