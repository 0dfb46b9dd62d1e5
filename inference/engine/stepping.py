"""One step of the engine: plan, run, take in the tokens; and whose fault it is where one fails.

A row's result does not depend on who else is in the batch, and a step that fails has drawn and counted nothing. So the
rows of a failed step are tried again in halves until one fails alone; the others have had their step by then, and
nobody's answer has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from inference.engine.lora.adapter_loader import AdapterLoader, LoadFailure
from inference.engine.scheduling.scheduler import Chunk, Scheduler
from inference.engine.scheduling.sequence import Sequence

from .bases import Bases
from .delivery import Delivery
from .errors import EngineError, UnforeseenError
from .faults import ENDS_PROCESS, Faults
from .protocol import PromptLogprob
from .requests import Requests
from .runner_interface import BaseRunner, SampledToken, StepResult, sign_of_life

logger = logging.getLogger(__name__)

ALL_AT_ONCE = 2**30  # probe tokens in a step that nobody waits for


@dataclass
class Stepper:
    """The counts are those since the worker began; `rows` are those of all steps, `seconds` what the steps took."""

    runner: BaseRunner
    scheduler: Scheduler
    loader: AdapterLoader
    requests: Requests
    bases: Bases
    delivery: Delivery
    faults: Faults
    clock: Callable[[], float]
    steps: int = 0
    tokens: int = 0
    rows: int = 0
    seconds: float = 0.0

    def step(self) -> None:
        chunks = self.scheduler.plan()
        if not chunks and not self.loader.proving:
            return
        budget = self.bases.pace.budget() if chunks else ALL_AT_ONCE
        error = self._attempt(chunks, budget)
        if error is not None:
            self._failed(chunks, budget, error)

    def _attempt(self, chunks: list[Chunk], budget: int) -> BaseException | None:
        """Run one step and take in what it gives; returns what it raised, after which nothing has changed."""
        started = self.clock()
        try:
            result = self.runner.step(chunks, budget)
        except ENDS_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001  (whose it is shows in `_failed`)
            return error
        self._take(chunks, result, started)
        return None

    # What a step gives

    def _take(self, chunks: list[Chunk], result: StepResult, started: float) -> None:
        now = self.clock()
        self.steps += 1
        self.rows += len(chunks)
        self.seconds += now - started
        if chunks and all(chunk.stop - chunk.start == 1 for chunk in chunks):
            self._learn_pace(result.probed, now - started)
        for index, (chunk, choice) in enumerate(zip(chunks, result.choices, strict=True)):
            self.scheduler.computed(chunk)
            sequence = chunk.sequence
            try:
                self._take_scored(sequence, result.scored.get(index, []))
                if choice is not None:
                    self._take_choice(sequence, choice, now)
                elif chunk.whole and not sequence.answers:
                    self.requests.finish(sequence, "length")
            except BaseException as error:  # noqa: BLE001  (sorted out by `caught`)
                self.requests.fail(sequence, self.faults.caught(error, f"answering request {sequence.id}"))
        if result.proof_error is not None:
            self._proof_failed(result.proof_error)
        if result.proof is not None:
            seconds, failure = self.loader.proved(result.proof)
            self.delivery.proof(result.proof, self.bases.key, seconds)
            if failure is not None:
                self.requests.adapter_failed(failure, self.bases.key)

    def _take_scored(self, sequence: Sequence, scored: list[PromptLogprob] | EngineError) -> None:
        if isinstance(scored, EngineError):
            raise scored
        if scored:
            self.delivery.prompt(sequence, scored)

    def _take_choice(self, sequence: Sequence, choice: SampledToken, now: float) -> None:
        info = self.bases.info
        assert info is not None  # noqa: S101  (for the type checker)
        if choice.error is not None:
            raise choice.error
        if choice.token < 0:
            raise EngineError("nonfinite_logits", "The model's output is not finite.")
        if choice.token >= sequence.vocabulary:  # more logits than rows of the embedding: no step could take it
            raise IndexError(f"token {choice.token} of {sequence.vocabulary}")
        self.tokens += 1
        reason = self.delivery.token(sequence, choice, info, now)
        if reason is not None:
            self.requests.finish(sequence, reason)

    def _learn_pace(self, probed: int, seconds: float) -> None:
        if probed:
            self.bases.pace.probed(probed, seconds)
        elif not self.loader.futures:  # reading beside the steps slows them
            self.bases.pace.decoded(seconds)

    # What fails

    def _failed(self, chunks: list[Chunk], budget: int, error: BaseException) -> None:
        """Out of memory ends the youngest running request; anything else ends those that fail alone.

        Raises `error` where it is nobody's: then the worker ends.
        """
        running = self.scheduler.running
        if isinstance(error, EngineError) and error.code == "out_of_memory" and running:
            logger.error("step failed: %s", error.message)
            self.requests.fail(max(running, key=lambda s: (s.pending, s.admitted)), error)
            return
        logger.warning("a step over %d rows failed and is tried in parts", len(chunks), exc_info=error)
        sign_of_life(self.runner, error)
        parts: list[Chunk | None] = [*chunks]
        if self.loader.proving and budget:
            parts.append(None)  # the proof under way
        groups = [(parts, error)]
        while groups:
            group, error = groups.pop()
            if len(group) == 1:
                self._blame(group[0], error)
                continue
            half = len(group) // 2
            for part in (group[:half], group[half:]):
                again = self._attempt([chunk for chunk in part if chunk is not None], budget if None in part else 0)
                if again is not None:
                    groups.append((part, again))

    def _blame(self, part: Chunk | None, error: BaseException) -> None:
        if part is None:
            self._proof_failed(error)
        else:
            sequence = part.sequence
            self.requests.fail(sequence, self.faults.caught(error, f"a step of request {sequence.id}"))

    def _proof_failed(self, error: BaseException) -> None:
        """The proof under way cannot be carried on: its adapter leaves, and is tried again when it is asked for."""
        failure = self.faults.caught(error, "proving an adapter")
        if isinstance(failure, UnforeseenError):
            failure = EngineError("adapter_load_failed", failure.message, **failure.detail)
        self.requests.adapter_failed(LoadFailure(self.loader.abandon(), failure), self.bases.key)
