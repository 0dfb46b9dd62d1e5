"""Work of the queue on one row, from where it is to its end, a few questions at a time, in the background.

What happened is in the database alone, so that a process that is killed loses no more than the answers that it was at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, ClassVar, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth.models import User
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from accounts.grants import Grant
from adapters.failures import BusyError, Refused
from common.api import ApiError
from evaluations.models import UNDER_WAY, Queued, RunState
from evaluations.models.explaining import kept
from inference.errors import InferenceError
from inference.gateway.asking import Asking, Event, PartialAnswer, Question, ask
from inference.quota.limits import LimitError

from .settling import Said

logger = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_EVERY = 1.0  # seconds between looks whether it was cancelled
ATTEMPTS = 6  # at a question while the engine or the database fails in ways that pass
LONGEST_WAIT = 60.0  # seconds between attempts
DATABASE = (DatabaseError, InterfaceError)


async def in_database(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return await database_sync_to_async(call)(*args, **kwargs)


class TargetFailedError(Exception):
    """This model cannot be asked any more, for the reason that is its cause."""


class Job(ABC):
    """Of one row. `alive` is called about once a second, and raises where the queue was taken over by somebody else."""

    kind: ClassVar[type[Queued]]

    def __init__(self, row: Queued, owner: User, alive: Callable[[], None]) -> None:
        self.row = row
        self.owner = owner
        self.alive = alive
        self.grant = Grant(owner.pk, row.token_ref or None)
        self.waiting = row.waiting
        self.rows: Any = self.kind._default_manager.filter(pk=row.pk)

    @abstractmethod
    async def steps(self) -> None:
        """All that is left. Raises ApiError where it cannot go on."""

    async def work(self) -> None:
        """Until the row has ended or was cancelled. Raises BusyError where it cannot go on in this process."""
        if not await in_database(self._start):
            return
        working = asyncio.ensure_future(self.steps())
        try:
            while not working.done():
                await asyncio.wait([working], timeout=LOOK_EVERY)
                await in_database(self.alive)
                if not working.done() and not await in_database(self._wanted):
                    return
            error = working.exception()
            if isinstance(error, InferenceError) and error.code == "shutting_down":
                raise BusyError  # it goes on where a portal starts again
            if isinstance(error, DATABASE):
                raise error
            if error is not None and not isinstance(error, ApiError | Refused):
                logger.error("%s failed", self.row, exc_info=error)
                error = InferenceError("internal_error")
            await in_database(self._end, RunState.FAILED if error else RunState.DONE, error)
        finally:
            working.cancel()
            await asyncio.wait([working])

    # The row's state

    def _start(self) -> bool:
        started = self.row.started_at or timezone.now()
        if self.owner.is_active and self.rows.filter(state__in=UNDER_WAY).update(
            state=RunState.RUNNING, started_at=started
        ):
            return True
        self._end(RunState.FAILED, InferenceError("revoked"))
        return False

    def _wanted(self) -> bool:
        return bool(self.rows.filter(state=RunState.RUNNING).exists())

    def _end(self, state: RunState, error: BaseException | None = None) -> None:
        facts: dict[str, Any] = {"waiting": "", "ended_at": timezone.now(), **(kept(error) if error else {})}
        self.rows.filter(state__in=UNDER_WAY).update(state=state, **facts)

    async def tell(self, waiting: str) -> None:
        """What it waits for, as a code."""
        if self.waiting != waiting:
            self.waiting = waiting
            await in_database(self.rows.update, waiting=waiting)

    # Its questions

    async def few_at_once(self, todo: Iterable[T], settle: Callable[[T], Awaitable[None]]) -> None:
        """Raises what `settle` raises first."""
        line = deque(todo)

        async def one_after_another() -> None:
            while line:
                await settle(line.popleft())

        tasks = [asyncio.ensure_future(one_after_another()) for _ in range(settings.EVALUATION_CONCURRENT)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def persist(self, attempt: Callable[[], Awaitable[None]], refused: Callable[[ApiError], None]) -> None:
        """`attempt`, again while what fails may pass; `refused` settles an error that is this question's own.

        Raises TargetFailedError, and ApiError where the whole cannot go on.
        """
        failures = 0
        while True:
            try:
                await attempt()
                return await self.tell("")
            except LimitError as error:  # of the account: it may take until tomorrow
                await self.tell(error.code)
                await asyncio.sleep(min(error.retry_after or 1.0, LONGEST_WAIT))
            except DATABASE as error:
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                logger.warning("an evaluation waits for the database: %s", error.__class__.__name__)
                await asyncio.sleep(2.0**failures)
            except ApiError as error:
                if error.code in ("shutting_down", "revoked"):
                    raise
                if error.status < 500 and error.status not in (404, 409, 422, 429):
                    return await in_database(refused, error)
                failures += 1
                if error.status in (404, 409, 422) or failures >= ATTEMPTS:
                    raise TargetFailedError from error
                await self.tell(error.code)
                await asyncio.sleep(min(error.retry_after or 2.0**failures, LONGEST_WAIT))


async def answered(grant: Grant, question: Question, most: int) -> Said:
    """At most `most` characters; an answer that is longer is stopped. Raises ApiError."""
    gathering, chars, is_cut = PartialAnswer(), 0, False
    async with contextlib.aclosing(_events(grant, question)) as events:
        async for event, asking in events:
            if event["type"] == "token":
                chars += len(event["text"])
                if chars > most and not is_cut:
                    is_cut = True
                    asking.stop()
            if whole := gathering.add(event):
                usage = whole.usage
                reason = "length" if is_cut else whole.finish_reason
                if reason == "cancelled":
                    raise InferenceError("engine_error")
                return Said(
                    whole.text[:most], reason, usage["prompt_tokens"], usage["completion_tokens"],
                    whole.timings["total"],
                )  # fmt: skip
    raise InferenceError("engine_error")


async def _events(grant: Grant, question: Question) -> AsyncGenerator[tuple[Event, Asking], None]:
    async with await ask(grant, [question], bounded=True) as asking:
        async for _index, event in asking:
            yield event, asking
