"""The ledger's thread outlives what goes wrong in it, and posting to it waits for nobody."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import date
from types import FrameType
from typing import Any, NoReturn

import pytest

from inference.quota import ledger as module
from inference.quota.ledger import Ledger, UsageRecord

PATIENCE = 10.0  # seconds


class Listing(Ledger):
    """Writes into a list, no sooner than it may."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.may_write = threading.Event()

    def _write(self, records: list[UsageRecord]) -> None:
        assert self.may_write.wait(PATIENCE)
        self.written += [record.holder for record in records]


@pytest.fixture
def books() -> Iterator[Listing]:
    made = Listing()
    yield made
    made.may_write.set()
    made.close(PATIENCE)


def record(holder: str) -> UsageRecord:
    return UsageRecord(1, 0, "pirate", "d" * 64, date(2026, 1, 1), holder)


def test_a_garbage_collection_posts_in_the_middle_of_a_post() -> None:
    """A request that nobody holds any more is posted by its `__del__`, at any line of whatever runs just then."""
    written: list[list[str]] = []

    def post(interrupted_at: int) -> None:
        books, lines = Listing(), itertools.count()
        books.may_write.set()

        def interrupt(_frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
            if event == "line" and next(lines) == interrupted_at:
                books.post(record("collected"))
            return interrupt

        sys.settrace(interrupt)
        books.post(record("first"))
        sys.settrace(None)
        books.close(PATIENCE)
        assert not books.pending
        written.append(sorted(books.written))

    def post_until_all_lines_were_interrupted() -> None:
        while not written or "collected" in written[-1]:
            post(len(written))

    thread = threading.Thread(target=post_until_all_lines_were_interrupted, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for a lock that it holds itself"
    assert len(written) > 20 and written == [["collected", "first"]] * (len(written) - 1) + [["first"]]


@pytest.mark.parametrize("name", ["Slot", "connection"])
def test_it_outlives_whatever_renewing_and_disconnecting_raise(
    name: str, books: Listing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Event()

    class Broken:
        def __getattr__(self, _name: str) -> NoReturn:
            tried.set()
            raise RuntimeError("the database may not be used here")

    monkeypatch.setattr(module, name, Broken())
    monkeypatch.setattr(module, "RENEW_EVERY", 0.01)
    books.may_write.set()
    books.hold("running")
    assert tried.wait(PATIENCE)
    books.post(record("ended"))
    books.flush(PATIENCE)
    assert books.written == ["ended"] and not books.pending
    assert "the database may not be used here" in caplog.text


def test_once_closed_it_starts_no_thread(books: Listing) -> None:
    """Python waits for ever for a thread that is started while it ends, when it collects what was left over."""
    books.may_write.set()
    books.post(record("in time"))
    books.close(PATIENCE)
    before, late = threading.enumerate(), record("late")
    books.hold("late")
    books.post(late)
    books.flush(PATIENCE)
    assert threading.enumerate() == before and late.freed.done()  # whoever waits for it goes on
    assert books.written == ["in time"] and not books.pending


def test_what_waits_is_bounded(books: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 2)
    records = [record(name) for name in "abc"]
    for one in records:
        books.post(one)
    assert [one.freed.done() for one in records] == [False, False, True]  # nobody waits for what is lost
    books.may_write.set()
    books.flush(PATIENCE)
    assert books.written == ["a", "b"] and not books.pending
    books.post(record("d"))
    books.flush(PATIENCE)
    assert books.written == ["a", "b", "d"]
