"""Who runs in the next step, and with how many tokens. Plain bookkeeping: no tensors, no clock of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .fair_queue import FairQueue
from .kv_slots import SlotTable
from .sequence import Sequence, SequenceState

# Requests that nobody waits for: their share of the slots, and of the prompt tokens of a step, beside others or alone.
# A step that has begun cannot be stopped, so alone they take short ones too: whoever comes then waits for no more.
BACKGROUND_SLOTS, BESIDE, ALONE = 4, 16, 4


@dataclass(frozen=True)
class Chunk:
    """Tokens `start:stop` of a sequence in one step; one is sampled where they reach its end and an answer is wanted.

    Probabilities of the prompt's tokens are wanted at the positions `scored`.
    """

    sequence: Sequence
    start: int
    stop: int

    @property
    def whole(self) -> bool:
        """Whether nothing of the sequence is left to compute."""
        return self.stop == len(self.sequence.tokens)

    @property
    def last(self) -> bool:
        return self.whole and self.sequence.answers

    @property
    def scored(self) -> range:
        return self.sequence.scored(self.start, self.stop)


class Scheduler:
    """Running sequences of the one loaded base, and the queue of all that wait."""

    def __init__(self, queue: FairQueue, max_batch: int, prefill_chunk: int) -> None:
        self.queue = queue
        self.max_batch = max_batch
        self.prefill_chunk = prefill_chunk
        self.slots = SlotTable(0)
        self.running: list[Sequence] = []  # in order of admission
        self.preempted: list[Sequence] = []  # since the owner last looked

    def reset_slots(self, count: int) -> None:
        """A base was loaded or freed. No sequence may be running."""
        if self.running:
            raise RuntimeError("slots cannot change while sequences run")
        self.slots = SlotTable(count)

    def running_by_user(self) -> Counter[str]:
        return Counter(sequence.user for sequence in self.running)

    def admit(self, admissible: Callable[[Sequence], bool], now: float) -> list[Sequence]:
        """Give slots to those whose turn it is, taking one back from a user with several for one who has none."""
        admitted = []
        while True:
            candidate = self.queue.next(admissible)
            if candidate is None:
                break
            if candidate.background and not self._has_spare_room():
                break
            if not self._has_room() and not self._make_room(candidate):
                break
            key = (candidate.base_key, candidate.adapter)
            taken = self.slots.take(key, candidate.tokens, candidate.reusable, candidate.background)
            if taken is None:
                break
            self.queue.remove(candidate)
            candidate.slot, candidate.computed = taken
            if not candidate.admitted:
                candidate.cached = candidate.computed
                candidate.admitted = now
            candidate.state = SequenceState.RUNNING
            self.running.append(candidate)
            admitted.append(candidate)
        return admitted

    def _has_room(self) -> bool:
        return len(self.running) < self.max_batch and self.slots.free > 0

    def _has_spare_room(self) -> bool:
        most = max(1, min(self.max_batch, len(self.slots.slots)) // BACKGROUND_SLOTS)
        return self._has_room() and sum(sequence.background for sequence in self.running) < most

    def _make_room(self, candidate: Sequence) -> bool:
        spare = next((sequence for sequence in reversed(self.running) if sequence.background), None)
        if spare is not None:
            self.preempt(spare)
            return True
        counts = self.running_by_user()
        if counts.get(candidate.user, 0):
            return False
        user, most = max(counts.items(), key=lambda item: item[1], default=("", 0))
        if most < 2:
            return False
        victim = next(sequence for sequence in reversed(self.running) if sequence.user == user)
        self.preempt(victim)
        return True

    def preempt(self, sequence: Sequence) -> None:
        """Take a slot back; the sequence waits at the head of its line and later computes its tokens again."""
        self.running.remove(sequence)
        self.slots.release(sequence.slot, sequence.tokens[: sequence.computed])
        sequence.slot, sequence.computed, sequence.state = -1, 0, SequenceState.WAITING
        self.queue.push_front(sequence)
        self.preempted.append(sequence)

    def plan(self) -> list[Chunk]:
        """The next step: one token of each that decodes, then prompts within the budget, least-served user first."""
        decoding = [s for s in self.running if s.pending == 1]
        chunks = [Chunk(s, s.computed, len(s.tokens)) for s in decoding]
        budget = self.prefill_chunk if decoding else 4 * self.prefill_chunk
        service = self.queue.user_service
        prefilling = sorted(
            (s for s in self.running if s.pending > 1), key=lambda s: (s.background, service.get(s.user, 0.0))
        )
        alone = all(sequence.background for sequence in self.running)
        spare = max(1, self.prefill_chunk // (ALONE if alone else BESIDE))
        for sequence in prefilling:
            budget = min(budget, spare) if sequence.background else budget
            if budget <= 0:
                break
            size = min(budget, sequence.pending)
            spare -= size if sequence.background else 0
            chunks.append(Chunk(sequence, sequence.computed, sequence.computed + size))
            budget -= size
        return chunks

    def computed(self, chunk: Chunk) -> None:
        """The step ran: its keys and values are in place."""
        chunk.sequence.computed = chunk.stop
        self.queue.charge(chunk.sequence, chunk.stop - chunk.start)

    def finish(self, sequence: Sequence) -> None:
        """The end of a sequence, wherever it is; its slot keeps what it holds for the next turn."""
        if sequence.state is SequenceState.WAITING:
            self.queue.remove(sequence)
        elif sequence.state is SequenceState.RUNNING:
            self.running.remove(sequence)
            self.slots.release(sequence.slot, sequence.tokens[: sequence.computed])
            sequence.slot = -1
        sequence.state = SequenceState.FINISHED
