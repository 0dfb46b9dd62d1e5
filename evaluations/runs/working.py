"""One run, from where it is to its end: model after model, a few questions at a time, in the background.

What happened is in the database alone, so that a process that is killed loses no more than the answers that it was at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone
from django.utils.translation import gettext_noop

from accounts.grants import Grant
from accounts.models import ApiToken
from adapters.failures import ActivationFailed, BusyError, Refused
from adapters.lifecycle.activation import activate
from adapters.models import BaseModel, LoraAdapter, Status
from common.api import ApiError
from evaluations.models import Item, Run, RunState, RunTarget, TargetState
from evaluations.models.explaining import kept
from evaluations.models.runs import UNDER_WAY
from inference.engine.params import SamplingParams
from inference.errors import InferenceError
from inference.gateway.asking import Asking, Event, PartialAnswer, Question, ask
from inference.gateway.scoring import Passage, score_once
from inference.gateway.targets import Target, find, of_copy
from inference.quota.limits import LimitError

from . import settling
from .keys import facts_of
from .settling import Likely, Said, Task

logger = logging.getLogger(__name__)
T = TypeVar("T")
X = TypeVar("X")

LOOK_EVERY = 1.0  # seconds between looks whether the run was cancelled
ATTEMPTS = 6  # at a question while the engine or the database fails in ways that pass
LONGEST_WAIT = 60.0  # seconds between attempts
NOTHING_BEFORE = gettext_noop("no token precedes the reference")
DATABASE = (DatabaseError, InterfaceError)


async def _sync(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return await database_sync_to_async(call)(*args, **kwargs)


class TargetFailedError(Exception):
    """This model cannot be asked any more, for the reason that is its cause; the run goes on with the next."""


class Worker:
    """Of one run. `alive` is called about once a second, and raises where the queue was taken over by somebody else."""

    run: Any  # (a parity report has the same fields of its state)

    def __init__(self, run: Run, alive: Callable[[], None]) -> None:
        self.run = run
        self.alive = alive
        self.params = SamplingParams.model_validate(run.params)
        self.grant = Grant(run.owner_id, run.token_ref or None)
        self.waiting = run.waiting

    async def work(self) -> None:
        """Until the run has ended or was cancelled. Raises BusyError where it cannot go on in this process."""
        if not await _sync(self._start):
            return
        working = asyncio.ensure_future(self._targets())
        try:
            while not working.done():
                await asyncio.wait([working], timeout=LOOK_EVERY)
                await _sync(self.alive)
                if not working.done() and not await _sync(self._wanted):
                    return
            error = working.exception()
            if isinstance(error, InferenceError) and error.code == "shutting_down":
                raise BusyError  # it goes on where a portal starts again
            if isinstance(error, DATABASE):
                raise error
            if error is not None and not isinstance(error, ApiError | Refused):
                logger.error("evaluation %s failed", self.run.pk, exc_info=error)
                error = InferenceError("internal_error")
            await _sync(self._end, RunState.FAILED if error else RunState.DONE, error)
        finally:
            working.cancel()
            await asyncio.wait([working])

    # The run's state

    def _start(self) -> bool:
        started = self.run.started_at or timezone.now()
        rows = type(self.run).objects.filter(pk=self.run.pk, state__in=UNDER_WAY, owner__is_active=True)
        if rows.update(state=RunState.RUNNING, started_at=started):
            return True
        self._end(RunState.FAILED, InferenceError("revoked"))
        return False

    def _wanted(self) -> bool:
        return type(self.run).objects.filter(pk=self.run.pk, state=RunState.RUNNING).exists()

    def _end(self, state: RunState, error: BaseException | None = None) -> None:
        facts: dict[str, Any] = {"waiting": "", "ended_at": timezone.now(), **(kept(error) if error else {})}
        type(self.run).objects.filter(pk=self.run.pk, state__in=UNDER_WAY).update(state=state, **facts)

    async def _tell(self, waiting: str) -> None:
        """What the run waits for, as a code."""
        if self.waiting != waiting:
            self.waiting = waiting
            await _sync(type(self.run).objects.filter(pk=self.run.pk).update, waiting=waiting)

    # Its models

    async def _targets(self) -> None:
        items = await _sync(lambda: list(self.run.version.items))
        targets = await _sync(lambda: list(self.run.targets.all()))
        for row in targets:
            if row.state in (TargetState.DONE, TargetState.FAILED):
                continue
            try:
                target = await self._ready(row)
                await self._questions(row, target, items)
            except TargetFailedError as error:
                await _sync(self._mark, row, TargetState.FAILED, error.__cause__)
            else:
                await _sync(self._mark, row, TargetState.DONE)

    def _mark(self, row: RunTarget, state: TargetState, error: BaseException | None = None) -> None:
        RunTarget.objects.filter(pk=row.pk).update(state=state, **(kept(error) if error else {}))

    async def _ready(self, row: RunTarget) -> Target:
        """What is asked; an inactive adapter is activated where the run may. Raises TargetFailedError."""
        while True:
            try:
                # On a thread of its own: an activation may take minutes.
                return await database_sync_to_async(self._found, thread_sensitive=False)(row)
            except BusyError:  # somebody else is at this adapter
                await self._tell("busy")
                await asyncio.sleep(LOOK_EVERY)

    def _found(self, row: RunTarget) -> Target:
        adapter = LoraAdapter.objects.filter(pk=row.adapter_id).first() if row.adapter_id else None
        if row.trial:
            target = self._trial(row, adapter)
            RunTarget.objects.filter(pk=row.pk).update(state=TargetState.RUNNING)
            return target
        if adapter is not None and adapter.status != Status.ACTIVE and self._may_activate():
            try:
                activate(adapter.pk, self.run.owner)
            except ActivationFailed as error:
                raise TargetFailedError from error
        try:
            target = find(row.slug)
        except InferenceError as error:
            raise TargetFailedError from error
        facts = facts_of(target)
        if row.digest and row.digest != facts["digest"]:
            raise TargetFailedError from Refused("changed_meanwhile")
        for field, value in facts.items():
            setattr(row, field, value)
        row.state = TargetState.RUNNING
        row.save(update_fields=[*facts, "state"])
        return target

    def _trial(self, row: RunTarget, adapter: LoraAdapter | None) -> Target:
        base = BaseModel.objects.filter(key=row.base_key, missing=False).first()
        if adapter is None or base is None:
            raise TargetFailedError from Refused("changed_meanwhile")
        try:
            return of_copy(adapter, base, row.digest, row.prompting)
        except InferenceError as error:
            raise TargetFailedError from error

    def _may_activate(self) -> bool:
        if not self.run.activates or not self.run.owner.is_staff:
            return False
        if not self.run.token_ref:
            return True
        token = ApiToken.objects.usable().filter(pk=self.run.token_ref).first()
        return token is not None and token.has_scope("operate")

    # Its questions

    async def _questions(self, row: RunTarget, target: Target, items: list[Item]) -> None:
        """Raises TargetFailedError, and ApiError where the whole run cannot go on."""
        todo = await _sync(lambda: settling.reuse(self.run, row, settling.left(row, items)))
        await self._all(todo, lambda task: self._task(row, target, task))

    async def _all(self, todo: Iterable[X], do: Callable[[X], Awaitable[None]]) -> None:
        """A few at a time; the first error ends the others."""
        line = deque(todo)

        async def one_after_another() -> None:
            while line:
                await do(line.popleft())

        tasks = [asyncio.ensure_future(one_after_another()) for _ in range(settings.EVALUATION_CONCURRENT)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _task(self, row: RunTarget, target: Target, task: Task) -> None:
        async def attempt() -> None:
            if task.needs_answer:
                task.answer = await self._answer(target, task.item)
            if task.needs_score:
                task.score = await self._score(target, task.item)
            await _sync(settling.settle, self.run, row, task)

        await self._settled(attempt, lambda error: settling.settle_error(row, task.item, error))

    async def _settled(self, attempt: Callable[[], Awaitable[None]], refuse: Callable[[ApiError], None]) -> None:
        """Attempt it until it is settled; `refuse`, which is called on a thread, where this item can never be.

        Raises TargetFailedError, and ApiError where the whole run cannot go on.
        """
        failures = 0
        while True:
            try:
                await attempt()
                return await self._tell("")
            except LimitError as error:  # of the account: it may take until tomorrow
                await self._tell(error.code)
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
                    return await _sync(refuse, error)
                failures += 1
                if error.status in (404, 409, 422) or failures >= ATTEMPTS:
                    raise TargetFailedError from error
                await self._tell(error.code)
                await asyncio.sleep(min(error.retry_after or 2.0**failures, LONGEST_WAIT))

    async def _answer(self, target: Target, item: Item) -> Said:
        """At most EVALUATION_ANSWER_CHARS characters; what is longer is stopped. Raises ApiError."""
        question = Question(target, self.params, item.messages, item.prompt, background=True)
        most = settings.EVALUATION_ANSWER_CHARS
        gathering, chars, is_cut = PartialAnswer(), 0, False
        async with contextlib.aclosing(_events(self.grant, question)) as events:
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

    async def _score(self, target: Target, item: Item) -> Likely:
        """Of the item's reference after what it asks. Raises ApiError."""
        found = await score_once(self.grant, Passage(target, item.reference, item.messages, item.prompt), bounded=True)
        told = [token["logprob"] for token in found.tokens if token["logprob"] is not None]
        if not told:  # one token that is made of question and reference together
            raise InferenceError("invalid_parameter", "reference", {"reason": NOTHING_BEFORE})
        return Likely(sum(told), len(told), found.usage["prompt_tokens"], found.seconds)


async def _events(grant: Grant, question: Question) -> AsyncGenerator[tuple[Event, Asking], None]:
    async with await ask(grant, [question], bounded=True) as asking:
        async for _index, event in asking:
            yield event, asking
