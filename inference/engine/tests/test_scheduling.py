"""Queue, scheduler, slots and residency without a model."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.errors import EngineError
from inference.engine.lora.residency import Residency, Resident, RowRanges
from inference.engine.params import SamplingParams
from inference.engine.scheduling.fair_queue import FairQueue
from inference.engine.scheduling.kv_slots import MIN_REUSE, SlotTable
from inference.engine.scheduling.scheduler import Scheduler
from inference.engine.scheduling.sequence import Sequence, SequenceState
from inference.engine.text.detokenizer import Detokenizer

serial = iter(range(10**9))


def sequence(
    user: str = "u", adapter: str | None = None, prompt: int = 10, answer: int = 10, at: float = 0
) -> Sequence:
    return Sequence(
        f"s{next(serial)}", user, "base", adapter, list(range(prompt)), SamplingParams(max_tokens=answer), at,
        Detokenizer(lambda tokens: ""),
    )  # fmt: skip


class Simulation:
    """The scheduler under an engine that samples one token for whoever reached its end; time is counted in steps."""

    def __init__(self, slots: int = 4, chunk: int = 16, limit: int = 10_000) -> None:
        self.scheduler = Scheduler(FairQueue(limit, limit), slots, chunk)
        self.scheduler.reset_slots(slots)
        self.now = 0
        self.first: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.served: dict[str, int] = {}

    def push(self, *sequences: Sequence) -> None:
        for s in sequences:
            self.scheduler.queue.push(s, self.scheduler.running_by_user())

    def step(self) -> None:
        self.now += 1
        self.scheduler.admit(lambda s: True, self.now)
        self.scheduler.preempted.clear()
        chunks = self.scheduler.plan()
        assert len({c.sequence.slot for c in chunks}) == len(chunks), "one slot, one sequence"
        for chunk in chunks:
            s = chunk.sequence
            assert chunk.start == s.computed, "no token is skipped or computed twice"
            self.scheduler.computed(chunk)
            self.served[s.user] = self.served.get(s.user, 0) + chunk.stop - chunk.start
            if chunk.last:
                s.tokens.append(0)
                self.first.setdefault(s.id, self.now)
                if s.generated >= s.params.max_tokens:
                    self.scheduler.finish(s)
                    self.ended[s.id] = self.now


def test_what_nobody_waits_for_delays_nobody() -> None:
    flooded, quiet = Simulation(slots=8, chunk=64), Simulation(slots=8, chunk=64)
    waiting = [sequence("background:u", adapter=f"a{n % 3}", prompt=40, answer=1) for n in range(60)]
    for spare in waiting:
        spare.background = True
    flooded.push(*waiting)
    for turn in range(40):
        chats = [[sequence(f"chat{n}", prompt=50, answer=10) for n in range(3)] for _ in range(2)]
        for simulation, new in zip((flooded, quiet), chats, strict=True):
            simulation.push(*(new if turn % 8 == 0 else []))
            simulation.step()
        assert sum(s.background for s in flooded.scheduler.running) <= 2, "most slots are kept for conversations"
    firsts = [sorted(s.first[i] for i in s.first if i not in {b.id for b in waiting}) for s in (flooded, quiet)]
    assert firsts[0] == firsts[1] and len(firsts[1]) == 15, "first tokens come in the very step in which they would"
    done = [spare for spare in waiting if spare.finished]
    assert 0 < len(done) < 60
    for _ in range(2000):
        flooded.step()
    assert all(spare.finished for spare in waiting)


def test_a_place_is_made_for_whoever_is_waited_for() -> None:
    simulation = Simulation(slots=1)
    spare, chat = sequence("background:u", prompt=100, answer=1), sequence("u", answer=1)
    spare.background = True
    simulation.push(spare)
    simulation.step()
    simulation.push(chat)
    simulation.step()
    assert chat.finished and not spare.finished
    for _ in range(40):
        simulation.step()
    assert spare.finished


def test_conversations_keep_their_slots_before_what_nobody_goes_on_with() -> None:
    table = SlotTable(3)
    tokens = list(range(100, 140))
    slot, _ = table.take(("base", "a"), tokens) or (-1, 0)
    table.release(slot, tokens)
    for n in range(5):
        other, _ = table.take(("base", "a"), [n] * 40, background=True) or (-1, 0)
        table.release(other, [n] * 40)
    assert table.take(("base", "a"), [*tokens, 1]) == (slot, len(tokens))


def test_a_flooding_user_cannot_starve_another() -> None:
    flooded, quiet = Simulation(), Simulation()
    flooded.push(*[sequence("flood", answer=200) for _ in range(500)])
    for _ in range(50):
        flooded.step()
        quiet.step()
    late = [sequence("late", answer=20) for _ in range(5)]
    alone = [sequence("late", answer=20) for _ in range(5)]
    flooded.push(*late)
    quiet.push(*alone)
    for _ in range(400):
        flooded.step()
        quiet.step()
    worst = max(flooded.ended[s.id] for s in late) - 50
    best = max(quiet.ended[s.id] for s in alone) - 50
    assert flooded.first[late[0].id] - 50 <= 3, "the first request of a newcomer starts at once"
    assert worst <= 4 * best, "with half of the service or more, not a place behind 500 others"


def test_no_adapter_of_a_user_starves_another() -> None:
    simulation = Simulation()
    simulation.push(*[sequence(adapter="busy", answer=50) for _ in range(200)])
    rare = sequence(adapter="rare", answer=10)
    simulation.push(rare)
    for _ in range(150):
        simulation.step()
    assert rare.id in simulation.ended, "next in turn once one of the running ones ends"


@pytest.mark.parametrize("seed", range(5))
def test_users_share_the_service_equally_whatever_they_ask(seed: int) -> None:
    chance = random.Random(seed)
    simulation = Simulation(slots=6)
    for user, size in (("a", 10), ("b", 40), ("c", 120)):
        simulation.push(*[sequence(user, prompt=chance.randint(1, size), answer=size) for _ in range(1000)])
    for _ in range(2000):
        simulation.step()
    shares = sorted(simulation.served.values())
    assert shares[-1] <= 1.5 * shares[0], simulation.served


def test_absence_saves_up_nothing() -> None:
    simulation = Simulation(slots=1)
    simulation.push(*[sequence("steady", answer=5) for _ in range(300)])
    for _ in range(500):
        simulation.step()
    simulation.push(*[sequence("returning", answer=5) for _ in range(300)])
    before = dict(simulation.served)
    for _ in range(500):
        simulation.step()
    gained = {user: simulation.served[user] - before.get(user, 0) for user in simulation.served}
    assert gained["returning"] <= 1.5 * gained["steady"]


def test_a_long_prompt_never_holds_up_decoding_beyond_its_chunk() -> None:
    simulation = Simulation(slots=4, chunk=8)
    simulation.push(sequence("a", answer=100))
    for _ in range(5):
        simulation.step()
    simulation.push(sequence("b", prompt=1000))
    for _ in range(60):
        simulation.scheduler.admit(lambda s: True, 0)
        plan = simulation.scheduler.plan()
        assert [c for c in plan if c.sequence.user == "a"], "decoding goes on in every step"
        assert sum(c.stop - c.start for c in plan if c.stop - c.start > 1) <= 8
        simulation.step()


def test_limits_name_themselves() -> None:
    queue = FairQueue(3, 2)
    queue.push(sequence("a"), {})
    with pytest.raises(EngineError) as caught:
        queue.push(sequence("a"), {"a": 1})
    assert caught.value.code == "user_limit"
    queue.push(sequence("b"), {})
    queue.push(sequence("c"), {})
    with pytest.raises(EngineError) as caught:
        queue.push(sequence("d"), {})
    assert caught.value.code == "queue_full"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 30), st.integers(1, 8)), max_size=40), st.randoms())
def test_everything_ends_and_every_slot_comes_back(jobs: list[tuple[str, int, int]], chance: random.Random) -> None:
    simulation = Simulation(slots=3, chunk=5)
    everyone = [sequence(user, prompt=prompt, answer=answer) for user, prompt, answer in jobs]
    for s in everyone:
        simulation.push(s)
        if chance.random() < 0.5:
            simulation.step()
        if chance.random() < 0.2:
            victim = chance.choice(everyone)
            if victim.state is not SequenceState.FINISHED and (
                victim in simulation.scheduler.running or victim in list(simulation.scheduler.queue)
            ):
                simulation.scheduler.finish(victim)
    for _ in range(3000):
        if not simulation.scheduler.running and not len(simulation.scheduler.queue):
            break
        simulation.step()
    assert all(s.finished for s in everyone)
    assert simulation.scheduler.slots.free == 3


def test_a_slot_is_reused_for_the_same_adapter_and_never_across() -> None:
    table = SlotTable(2)
    tokens = list(range(MIN_REUSE + 10))
    taken: Any = table.take(("base", "a"), tokens)
    table.release(taken[0], tokens)
    assert table.take(("base", "b"), tokens + [1]) == (1, 0), "another adapter starts from nothing, in another slot"
    assert table.take(("base", "a"), tokens + [1]) == (0, len(tokens)), "the next turn continues"


def test_the_last_prompt_token_is_always_computed() -> None:
    table = SlotTable(1)
    tokens = list(range(40))
    table.take(("base", None), tokens)
    table.release(0, tokens)
    assert table.take(("base", None), tokens) == (0, 39)


def test_residency_evicts_least_recently_used_and_never_pinned() -> None:
    residency = Residency(budget=30)
    for name in "abc":
        residency.add(Resident(name, name, 8, 10))
    residency.pin("a")
    residency.touch("b")
    assert residency.victims(10) == ["c"]
    assert residency.victims(20) == ["c", "b"]
    assert residency.victims(21) is None
    with pytest.raises(RuntimeError):
        residency.remove("a")
    assert residency.remove("c") == 10
    assert residency.bytes == 20


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20)), max_size=60))
def test_row_ranges_never_overlap(actions: list[tuple[int, int]]) -> None:
    ranges = RowRanges()
    for name, rows in actions:
        if str(name) in ranges.ranges:
            ranges.free(str(name))
        else:
            ranges.place(str(name), rows)
        ordered = sorted(ranges.ranges.values())
        assert all(a[1] <= b[0] for a, b in zip(ordered, ordered[1:], strict=False))
