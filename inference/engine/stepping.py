"""One step of the engine: plan, run, take in the tokens; and whose fault it is where one fails.

A row's result does not depend on who else is in the batch, and a step that fails has drawn and counted nothing. So the
rows of a failed step are tried again in halves until one fails alone; the others have had their step by then, and
nobody's answer has changed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from inference.engine.lora.adapter_loader import LoadFailure
from inference.engine.scheduling.scheduler import Chunk
from inference.engine.scheduling.sequence import Sequence

from .errors import EngineError, UnforeseenError
from .faults import ENDS_PROCESS, one_line
from .runner_interface import Choice, StepResult

if TYPE_CHECKING:
    from .engine import Engine

logger = logging.getLogger(__name__)

ALL_AT_ONCE = 2**30  # probe tokens in a step that nobody waits for


class Stepper:
    """The engine's hands during a step; all state is the engine's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def step(self) -> None:
        engine = self.engine
        # A preempted sequence let go of its slot; its adapter may leave the bank until it is admitted again.
        for sequence in engine.scheduler.preempted:
            if sequence.adapter is not None:
                engine.residency.unpin(sequence.adapter)
        engine.scheduler.preempted.clear()
        chunks = engine.scheduler.plan()
        if not chunks and not engine.loader.proving:
            return
        budget = engine.pace.budget() if chunks else ALL_AT_ONCE
        error = self.attempt(chunks, budget)
        if error is not None:
            self.failed(chunks, budget, error)

    def attempt(self, chunks: list[Chunk], budget: int) -> BaseException | None:
        """Run one step and take in what it gives; returns what it raised, after which nothing has changed."""
        started = self.engine.clock()
        try:
            result = self.engine.runner.step(chunks, budget)
        except ENDS_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001  (whose it is shows in `failed`)
            return error
        self.take(chunks, result, started)
        return None

    # What a step gives -----------------------------------------------------------------------------------------

    def take(self, chunks: list[Chunk], result: StepResult, started: float) -> None:
        engine = self.engine
        engine.steps += 1
        now = engine.clock()
        if chunks and all(chunk.stop - chunk.start == 1 for chunk in chunks):
            self.learn_pace(result.probed, now - started)
        for chunk, choice in zip(chunks, result.choices, strict=True):
            engine.scheduler.computed(chunk)
            if choice is None:
                continue
            sequence = chunk.sequence
            try:
                self.take_choice(sequence, choice, now)
            except BaseException as error:  # noqa: BLE001  (sorted out by `caught`)
                engine.fail(sequence, engine.faults.caught(error, f"answering request {sequence.id}"))
        if result.proof_error is not None:
            self.proof_failed(result.proof_error)
        if result.proof is not None:
            seconds, failure = engine.loader.proved(result.proof)
            proof = result.proof
            engine.send({"type": "proof", "digest": proof.digest, "ok": proof.ok, "code": proof.code,
                         "message": proof.message, "kl": proof.kl, "changed": proof.changed,
                         "seconds": round(seconds, 4)})  # fmt: skip
            if failure is not None:
                engine.adapter_failed(failure)

    def take_choice(self, sequence: Sequence, choice: Choice, now: float) -> None:
        engine = self.engine
        assert engine.info is not None  # noqa: S101  (for the type checker)
        if choice.error is not None:
            raise choice.error
        if choice.token < 0:
            raise EngineError("nonfinite_logits", "The model's output is not finite.")
        if choice.token >= engine.info.vocabulary:  # more logits than rows of the embedding: no step could take it
            raise IndexError(f"token {choice.token} of {engine.info.vocabulary}")
        engine.tokens += 1
        reason = engine.delivery.token(sequence, choice, engine.info, now)
        if reason is not None:
            engine.finish(sequence, reason)

    def learn_pace(self, probed: int, seconds: float) -> None:
        if probed:
            self.engine.pace.probed(probed, seconds)
        elif not self.engine.loader.futures:  # reading beside the steps slows them
            self.engine.pace.decoded(seconds)

    # What fails ------------------------------------------------------------------------------------------------

    def failed(self, chunks: list[Chunk], budget: int, error: BaseException) -> None:
        """Out of memory ends the youngest running request; anything else ends those that fail alone.

        Raises `error` where it is nobody's: then the worker ends.
        """
        engine = self.engine
        running = list(engine.scheduler.running)
        if isinstance(error, EngineError) and error.code == "out_of_memory" and running:
            logger.error("step failed: %s", error.message)
            engine.fail(max(running, key=lambda s: (s.pending, s.admitted)), error)
            return
        logger.warning("a step over %d rows failed and is tried in parts", len(chunks), exc_info=error)
        self.sign_of_life(error)
        parts: list[Chunk | None] = [*chunks]
        if engine.loader.proving and budget:
            parts.append(None)  # the proof under way
        groups = [(parts, error)]
        while groups:
            group, error = groups.pop()
            if len(group) == 1:
                self.blame(group[0], error)
                continue
            half = len(group) // 2
            for part in (group[:half], group[half:]):
                again = self.attempt([chunk for chunk in part if chunk is not None], budget if None in part else 0)
                if again is not None:
                    groups.append((part, again))

    def sign_of_life(self, error: BaseException) -> None:
        """Raises `error` where a step that belongs to nobody fails as well, twice: a broken device, not a request."""
        for _ in range(2):
            try:
                self.engine.runner.step([], 0)
            except ENDS_PROCESS:
                raise
            except BaseException as again:  # noqa: BLE001  (whatever it is)
                logger.error("a step that belongs to nobody failed: %s", one_line(again))
            else:
                return
        raise error

    def blame(self, part: Chunk | None, error: BaseException) -> None:
        engine = self.engine
        if part is None:
            self.proof_failed(error)
        else:
            sequence = part.sequence
            engine.fail(sequence, engine.faults.caught(error, f"a step of request {sequence.id}"))

    def proof_failed(self, error: BaseException) -> None:
        """The proof under way cannot be carried on: its adapter leaves, and is tried again when it is asked for."""
        failure = self.engine.faults.caught(error, "proving an adapter")
        if isinstance(failure, UnforeseenError):
            failure = EngineError("adapter_load_failed", failure.message)
        self.engine.adapter_failed(LoadFailure(self.engine.loader.abandon(), failure))
