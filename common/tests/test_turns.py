"""Heavy work of requests takes turns, fairly between people; what cannot wait is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from common.api import ApiError
from common.turns import Turns
from tests.fixtures.portal import wait_for


class People:
    """Threads that each want one turn; `order` is who got one, `refused` who did not."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order: list[str] = []
        self.refused: list[ApiError] = []
        self.threads: list[threading.Thread] = []

    def comes(self, person: str, work: Callable[[], object] = lambda: None) -> None:
        """Returns when they stand in their queue, or work, or have been refused."""
        before = self._seen(person)

        def want() -> None:
            try:
                with self.turns.turn(person):
                    self.order.append(person)
                    work()
            except ApiError as error:
                self.refused.append(error)

        self.threads.append(threading.Thread(target=want))
        self.threads[-1].start()
        wait_for(lambda: self._seen(person) > before, what="their place")

    def _seen(self, person: str) -> int:
        return self.turns._counts[person] + len(self.refused) + len(self.order)

    def all_go(self) -> None:
        for thread in self.threads:
            thread.join(30)


def test_whoever_comes_with_many_waits_for_those_of_others() -> None:
    people, go = People(Turns()), threading.Event()
    people.comes("busy", go.wait)
    for person in ("busy", "busy", "busy", "quiet", "other", "quiet"):
        people.comes(person)
    assert people.order == ["busy"], "one at a time"
    go.set()
    people.all_go()
    assert people.order == ["busy", "busy", "quiet", "other", "busy", "quiet", "busy"]


@pytest.mark.parametrize(("each", "most"), [(3, 100), (100, 3)])
def test_one_more_than_may_wait_is_refused(each: int, most: int) -> None:
    people, go = People(Turns(each, most)), threading.Event()
    people.comes("busy", go.wait)
    for _ in range(3):
        people.comes("busy")
    assert [(error.code, error.status, bool(error.retry_after)) for error in people.refused] == [
        ("queue_full", 503, True)
    ]
    go.set()
    people.all_go()
    people.comes("busy")
    people.all_go()
    assert people.order == ["busy"] * 4 and not people.turns._counts


def test_nobody_waits_for_ever() -> None:
    people, go = People(Turns(patience=0.0)), threading.Event()
    people.turns._join("before")
    people.comes("late")
    people.all_go()
    assert [error.status for error in people.refused] == [503] and not people.order
    people.turns._end("before")
    people.comes("late", go.set)
    people.all_go()
    assert people.order == ["late"] and go.is_set()


def test_work_that_fails_gives_its_turn_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.turn("one"):
        _ = 1 / 0
    with turns.turn("two"):
        pass
    assert not turns._counts
