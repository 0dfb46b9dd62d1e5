"""What a reader has seen is saved within a second, few writes do it, and an answer whose process is gone has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from chat import flows, keeping
from chat.keeping import BEAT_EVERY, Keeper, end_abandoned, settled
from chat.models import STALE, Conversation, Message, State
from chat.transfer import whole_json

pytestmark = pytest.mark.django_db


class Answer:
    """One that grows when the test says so."""

    def __init__(self, message: Message, text: str = "") -> None:
        self.message_id = message.pk
        self.text = text
        self.stops = 0

    def stop_soon(self) -> None:
        self.stops += 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class IdleKeeper(Keeper):
    """Its rounds are the test's."""

    def _run(self) -> None:
        pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(clock: Clock) -> Keeper:
    return IdleKeeper(clock)


@pytest.fixture
def conversation(owner: User) -> Conversation:
    return Conversation.objects.create(user=owner)


@pytest.fixture
def running(conversation: Conversation) -> Callable[..., Message]:
    def make(**fields: Any) -> Message:
        given = {"role": "assistant", "state": State.RUNNING, "updated_at": timezone.now() - STALE / 2} | fields
        return Message.objects.create(conversation=conversation, **given)

    return make


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process named `gone` is dead, nothing is known of any other."""
    monkeypatch.setattr("chat.models.is_dead", lambda name: name == "gone")


def seen(message: Message) -> Any:
    """When the database last heard of it."""
    return Message.objects.get(pk=message.pk).updated_at


def test_only_what_has_grown_is_written(keeper: Keeper, running: Callable[..., Message]) -> None:
    rows = [running() for _ in range(3)]
    answers = [Answer(row) for row in rows]
    for answer in answers:
        keeper.keep(answer)
    answers[0].text, answers[2].text = "a", "ccc"
    keeper.round()
    assert [Message.objects.get(pk=row.pk).content for row in rows] == ["a", "", "ccc"]
    assert seen(rows[0]) > rows[0].updated_at and seen(rows[1]) == rows[1].updated_at
    with CaptureQueriesContext(
        connection,
    ) as queries:
        keeper.round()
    assert not [query for query in queries if "UPDATE" in query["sql"]]


def test_many_answers_are_few_writes(
    keeper: Keeper, running: Callable[..., Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = keeping.save

    def count(texts: list[tuple[int, str]]) -> None:
        saved.append(len(texts))
        save(texts)

    monkeypatch.setattr(keeping, "save", count)
    monkeypatch.setattr(keeping, "BATCH_ROWS", 4)
    monkeypatch.setattr(keeping, "BATCH_CHARS", 1000)
    answers = [Answer(running()) for _ in range(10)]
    for answer in answers:
        keeper.keep(answer)
        answer.text = "x" * 10
    keeper.round()
    assert saved == [4, 4, 2]
    for answer in answers[:3]:
        answer.text = "y" * 600
    keeper.round()
    assert saved[3:] == [1, 1, 1], "one transaction takes so many characters at most"
    assert set(Message.objects.values_list("content", flat=True)) == {"x" * 10, "y" * 600}


def test_one_without_news_is_seen_to_live(keeper: Keeper, clock: Clock, running: Callable[..., Message]) -> None:
    row = running()
    keeper.keep(Answer(row))
    clock.now += BEAT_EVERY - 0.1
    keeper.round()
    assert seen(row) == row.updated_at
    clock.now += 0.2
    keeper.round()
    beat = seen(row)
    assert beat > row.updated_at
    keeper.round()
    assert seen(row) == beat


def test_what_has_ended_is_not_written_over(keeper: Keeper, clock: Clock, running: Callable[..., Message]) -> None:
    row = running()
    answer = Answer(row)
    keeper.keep(answer)
    answer.text = "the beginning"
    flows.save_end(row.pk, "the whole", State.DONE, "", {})
    clock.now += BEAT_EVERY
    keeper.round()
    row.refresh_from_db()
    assert (row.content, row.state, row.writer) == ("the whole", State.DONE, "")
    keeper.forget(answer)
    answer.text = "more"
    with CaptureQueriesContext(connection) as queries:
        keeper.round()
    assert len(queries) == 0


def test_a_stop_from_elsewhere_is_heard_once(keeper: Keeper, running: Callable[..., Message]) -> None:
    asked, other = Answer(running()), Answer(running())
    keeper.keep(asked)
    keeper.keep(other)
    flows.ask_to_stop(asked.message_id)
    for _round in range(2):
        keeper.round()
    assert (asked.stops, other.stops) == (1, 0)


@pytest.mark.django_db(transaction=True)
def test_the_thread_outlives_a_database_that_is_away(
    running: Callable[..., Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SAVE_EVERY", 0.01)
    done = threading.Event()
    calls: list[Any] = []

    def save(texts: list[tuple[int, str]]) -> None:
        calls.append(texts)
        if len(calls) < 3:
            raise OperationalError if len(calls) == 1 else ValueError
        done.set()

    monkeypatch.setattr(keeping, "save", save)
    answer = Answer(running())
    keeper = Keeper()
    keeper.keep(answer)
    answer.text = "still here"
    assert done.wait(30)
    keeper.forget(answer)
    assert calls == [[(answer.message_id, "still here")]] * 3


def test_an_answer_whose_writer_is_dead_has_ended(
    dead: None, running: Callable[..., Message], conversation: Conversation
) -> None:
    row = running(writer="gone", content="half a sen", info={"trimmed": 2})
    assert row.live_state == State.STOPPED
    shown = whole_json(conversation)["messages"][0]
    assert (shown["state"], shown["content"]) == ("stopped", "half a sen")
    assert shown["info"] == {"trimmed": 2, "finish_reason": "interrupted"}
    row.refresh_from_db()
    assert (row.state, row.writer) == (State.STOPPED, "")


def test_an_answer_whose_writer_is_dead_can_be_continued(dead: None, running: Callable[..., Message]) -> None:
    row = running(writer="gone", content="half")
    assert flows.reopen(row)
    row.refresh_from_db()
    assert row.state == State.RUNNING and row.live_state == State.RUNNING
    assert not flows.reopen(row), "its writer lives"


def test_elsewhere_the_beat_decides(dead: None, running: Callable[..., Message]) -> None:
    row = running(writer="on another machine")
    assert settled(row).state == State.RUNNING
    Message.objects.update(updated_at=timezone.now() - 2 * STALE)
    row.refresh_from_db()
    assert settled(row).state == State.STOPPED


def test_who_shows_life_in_between_is_not_ended(dead: None, running: Callable[..., Message]) -> None:
    old = running(writer="on another machine", updated_at=timezone.now() - 2 * STALE)
    Message.objects.update(updated_at=timezone.now(), content="more")
    found = settled(old)
    assert (found.state, found.content) == (State.RUNNING, "more")
    assert Message.objects.get().state == State.RUNNING


def test_a_start_ends_what_the_dead_wrote_and_nothing_else(dead: None, running: Callable[..., Message]) -> None:
    rows = [running(writer=writer) for writer in ("gone", "elsewhere", "gone")]
    done = running(writer="", state=State.DONE)
    assert end_abandoned() == 2
    assert [Message.objects.get(pk=row.pk).state for row in [*rows, done]] == ["stopped", "running", "stopped", "done"]
    assert end_abandoned() == 0
