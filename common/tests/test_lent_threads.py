"""Threads are lent to calls, and keep their connection to the database between them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from common import lent_threads
from common.lent_threads import Lender, LentThreads
from tests.fixtures.isolation import skip_for

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE = 30


@pytest.fixture(autouse=True)
def lender(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lender]:
    lender = Lender()
    monkeypatch.setattr(lent_threads, "lender", lender)
    yield lender
    lender.close()


def used() -> tuple[int, Any]:
    """The thread and the connection with which the database was asked."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return threading.get_ident(), connection.connection


async def asked() -> tuple[int, Any]:
    async with LentThreads():
        return await sync_to_async(used)()


async def test_the_next_request_gets_the_thread_and_its_connection() -> None:
    thread, open_connection = await asked()
    assert thread != threading.get_ident()
    again = await asked()
    assert again[0] == thread and again[1] is open_connection


async def test_nobody_waits_for_anothers_call() -> None:
    free = threading.Event()

    async def request(work: Callable[[], Any]) -> Any:
        async with LentThreads():
            return await sync_to_async(work)()

    first = asyncio.create_task(request(lambda: free.wait(PATIENCE)))
    await asyncio.sleep(0)
    await request(free.set)
    assert await first, "it was freed, and did not give up"


async def test_calls_of_one_request_run_one_after_another() -> None:
    running: list[int] = []
    most: list[int] = []

    def call(number: int) -> int:
        running.append(number)
        most.append(len(running))
        used()
        running.remove(number)
        return number

    async with LentThreads():
        assert await asyncio.gather(*(sync_to_async(call)(number) for number in range(50))) == list(range(50))
    assert max(most) == 1


async def test_whoever_waits_for_something_else_holds_no_thread(lender: Lender) -> None:
    """An answer that streams, a websocket that is open."""
    async with LentThreads():
        mine = await sync_to_async(used)()
        assert len(lender._waiting) == 1
        async with asyncio.TaskGroup() as group:
            other = group.create_task(asked())
    assert other.result()[0] == mine[0]


async def test_a_context_inside_another_changes_nothing(lender: Lender) -> None:
    async with LentThreads():
        outer = await sync_to_async(used)()
        async with LentThreads():
            assert await sync_to_async(used)() == outer
        assert await sync_to_async(used)() == outer
    assert len(lender._waiting) == 1


async def test_what_fails_fails_for_whoever_asked() -> None:
    async with LentThreads():
        with pytest.raises(ZeroDivisionError):
            await sync_to_async(lambda: 1 / 0)()
        assert await sync_to_async(int)() == 0


async def test_a_task_that_outlives_its_request_goes_on(lender: Lender) -> None:
    ended = asyncio.Event()

    async def later() -> tuple[int, Any]:
        await ended.wait()
        return await sync_to_async(used)()

    async with LentThreads():
        task = asyncio.create_task(later())
        mine = await sync_to_async(used)()
    ended.set()
    assert await task == mine
    assert len(lender._waiting) == 1


async def test_a_request_that_was_left_ends_after_its_call() -> None:
    begun, free = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    told: list[str] = []

    def call() -> None:
        loop.call_soon_threadsafe(begun.set)
        free.wait(PATIENCE)
        told.append("call")

    async def request() -> None:
        try:
            async with LentThreads():
                await sync_to_async(call)()
        finally:
            told.append("request")

    task = asyncio.create_task(request())
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    free.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["call", "request"]


def test_few_wait_and_none_for_long() -> None:
    now = 0.0
    lender = Lender(idle=2, rest=60, now=lambda: now)
    threads = [lender.take() for _ in range(4)]
    opened = [thread.submit(used).result()[1] for thread in threads]
    for thread in threads[:3]:
        lender.give_back(thread)
    assert is_ended(threads[0]), "the third that came back is one too many: the first goes"
    assert lender.take() is threads[2], "the last one that came back"
    lender.give_back(threads[2])
    now = 60.0
    lender.give_back(threads[3])
    assert [is_ended(thread) for thread in threads] == [True, True, True, False]
    if connection.vendor == "sqlite":
        for number, one in enumerate(opened):
            assert is_closed(one) == (number != 3)
    assert lender.take() is threads[3]
    lender.give_back(threads[3])
    lender.close()
    assert is_ended(threads[3])


def is_ended(thread: ThreadPoolExecutor) -> bool:
    try:
        thread.submit(int).result()
    except RuntimeError:  # cannot schedule new futures after shutdown
        thread.shutdown()  # waits
        return True
    return False


def is_closed(opened: Any) -> bool:
    try:
        opened.total_changes  # noqa: B018
    except sqlite3.ProgrammingError:  # cannot operate on a closed database
        return True
    return False


async def test_a_connection_that_has_died_is_replaced() -> None:
    if connection.vendor != "mysql":
        skip_for("MariaDB or Redis")
    thread, mine = await asked()

    def kill() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"KILL {mine.thread_id()}")

    await asyncio.to_thread(kill)
    again = await asked()
    assert again[0] == thread and again[1] is not mine
