"""One run, from where it is to its end: model after model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from channels.db import database_sync_to_async
from django.conf import settings
from django.utils.translation import gettext_noop

from accounts.models import ApiToken
from adapters.failures import ActivationFailed, BusyError, Refused
from adapters.lifecycle.activation import activate
from adapters.models import BaseModel, LoraAdapter, Status
from evaluations.models import Item, Run, RunTarget, TargetState
from evaluations.models.explaining import kept
from inference.engine.params import SamplingParams
from inference.errors import InferenceError
from inference.gateway.asking import Question
from inference.gateway.scoring import Passage, score_once
from inference.gateway.targets import Target, find, of_copy

from . import settling
from .job import LOOK_EVERY, Job, TargetFailedError, answered, in_database
from .keys import facts_of
from .settling import Likely, Said, Task

NOTHING_BEFORE = gettext_noop("no token precedes the reference")


class Worker(Job):
    kind = Run

    def __init__(self, run: Run, alive: Callable[[], None]) -> None:
        super().__init__(run, run.owner, alive)
        self.run = run
        self.params = SamplingParams.model_validate(run.params)

    async def steps(self) -> None:
        items = await in_database(lambda: list(self.run.version.items))
        targets = await in_database(lambda: list(self.run.targets.all()))
        for row in targets:
            if row.state in (TargetState.DONE, TargetState.FAILED):
                continue
            try:
                target = await self._ready(row)
                await self._questions(row, target, items)
            except TargetFailedError as error:  # the run goes on with the next
                await in_database(self._mark, row, TargetState.FAILED, error.__cause__)
            else:
                await in_database(self._mark, row, TargetState.DONE)

    def _mark(self, row: RunTarget, state: TargetState, error: BaseException | None = None) -> None:
        RunTarget.objects.filter(pk=row.pk).update(state=state, **(kept(error) if error else {}))

    async def _ready(self, row: RunTarget) -> Target:
        """What is asked; an inactive adapter is activated where the run may. Raises TargetFailedError."""
        while True:
            try:
                # On a thread of its own: an activation may take minutes.
                return await database_sync_to_async(self._found, thread_sensitive=False)(row)
            except BusyError:  # somebody else is at this adapter
                await self.tell("busy")
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
        todo = await in_database(lambda: settling.reuse(self.run, row, settling.left(row, items)))
        await self.few_at_once(todo, lambda task: self._task(row, target, task))

    async def _task(self, row: RunTarget, target: Target, task: Task) -> None:
        async def attempt() -> None:
            if task.needs_answer:
                task.answer = await self._answer(target, task.item)
            if task.needs_score:
                task.score = await self._score(target, task.item)
            await in_database(settling.settle, self.run, row, task)

        await self.persist(attempt, lambda error: settling.settle_error(row, task.item, error))

    async def _answer(self, target: Target, item: Item) -> Said:
        """At most EVALUATION_ANSWER_CHARS characters; what is longer is stopped. Raises ApiError."""
        question = Question(target, self.params, item.messages, item.prompt, background=True)
        return await answered(self.grant, question, settings.EVALUATION_ANSWER_CHARS)

    async def _score(self, target: Target, item: Item) -> Likely:
        """Of the item's reference after what it asks. Raises ApiError."""
        found = await score_once(self.grant, Passage(target, item.reference, item.messages, item.prompt), bounded=True)
        told = [token["logprob"] for token in found.tokens if token["logprob"] is not None]
        if not told:  # one token that is made of question and reference together
            raise InferenceError("invalid_parameter", "reference", {"reason": NOTHING_BEFORE})
        return Likely(sum(told), len(told), found.usage["prompt_tokens"], found.seconds)
