"""A parity report, from where it is to its end, in the background as a run is.

Of each sample the engine is asked three times: for the tokens of the question, for those of the reference after it, and
for the probabilities of both together with what training has after them. What is served is so compared as it is served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from channels.db import database_sync_to_async
from django.db import IntegrityError, transaction

from adapters.failures import Refused
from adapters.models import LoraAdapter
from common.api import ApiError
from evaluations.models import Item, Parity, Sample
from evaluations.models.explaining import kept
from evaluations.parity.comparing import Served, difference, ending, place_of
from evaluations.parity.implied import Implied, implied
from evaluations.parity.tokens import Written
from evaluations.parity.verdict import outcome
from inference.engine.errors import EngineError
from inference.engine.params import SamplingParams
from inference.engine.protocol import PromptLogprob
from inference.errors import InferenceError
from inference.gateway.asking import Question, Reading, WholeAnswer, answer
from inference.gateway.operating import status
from inference.gateway.scoring import Passage, score_once
from inference.gateway.targets import Target, find
from inference.manager import ModelManager

from .job import Job, TargetFailedError, in_database
from .keys import facts_of
from .parity_apart import Elsewhere

CHUNK = 100  # samples whose tokens are made at once
READING = Reading(0, answer=False)
ONE = SamplingParams(max_tokens=1)


class ParityWorker(Job):
    kind = Parity

    def __init__(self, report: Parity, alive: Callable[[], None]) -> None:
        super().__init__(report, report.owner, alive)
        self.report = report

    async def steps(self) -> None:
        try:
            await self._samples()
        except TargetFailedError as error:
            raise (error.__cause__ or error) from None  # there is no other model to go on with

    async def _samples(self) -> None:
        """Raises TargetFailedError, ApiError."""
        target = await in_database(self._target)
        # Files are read and a child is asked: on a thread of its own.
        aside: Any = database_sync_to_async(_implied, thread_sensitive=False)
        training = await aside(self.report.adapter_id)
        await in_database(self._save, implied=training.facts())
        todo = await in_database(self._left)
        for start in range(0, len(todo), CHUNK):
            part = todo[start : start + CHUNK]
            written = await database_sync_to_async(training.written, thread_sensitive=False)(part)
            await self.few_at_once([(item, written[item.pk]) for item in part], partial(self._sample, target))
        engine = (await status()).get("engine") or {}
        if engine.get("base_key") == target.base["key"]:
            await in_database(self._save, precision=str(engine.get("precision") or "")[:32])
        await Elsewhere(self, self.report, target, self._read, sums).measure()
        await in_database(self._conclude)

    def _target(self) -> Target:
        """Raises TargetFailedError."""
        try:
            target = find(self.report.slug)
        except InferenceError as error:
            raise TargetFailedError from error
        if facts_of(target)["digest"] != self.report.digest:
            raise TargetFailedError from Refused("changed_meanwhile")
        return target

    def _save(self, **facts: Any) -> None:
        for name, value in facts.items():
            setattr(self.report, name, value)
        Parity.objects.filter(pk=self.report.pk).update(**facts)

    def _conclude(self) -> None:
        rows = list(Sample.objects.filter(parity=self.report, code="").order_by("item__number"))
        self._save(outcome=outcome(self.report.recorded, rows, self.report.precision))
        Sample.objects.filter(parity=self.report).update(asked={})

    def _left(self) -> list[Item]:
        done = set(Sample.objects.filter(parity=self.report).values_list("item_id", flat=True))
        return [item for item in self.report.version.items if item.pk not in done]

    # Its samples

    async def _sample(self, target: Target, sample: tuple[Item, Written | str]) -> None:
        item, written = sample

        async def attempt() -> None:
            facts, asked = await self._facts(target, item, written)
            await in_database(self._keep, item, facts=facts, asked=asked if self.report.wanted else {})

        await self.persist(attempt, lambda error: self._keep(item, **kept(error)))

    def _keep(self, item: Item, **fields: Any) -> None:
        try:
            with transaction.atomic():
                Sample.objects.create(parity=self.report, item=item, **fields)
        except IntegrityError:  # settled by a process that was taken for dead, or the report was deleted meanwhile
            pass

    async def _facts(self, target: Target, item: Item, written: Written | str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields `facts` and `asked` of a sample. Raises ApiError."""
        served = await self._served(target, item)
        facts: dict[str, Any] = {"tokens": len(served.ids)}
        asked: dict[str, Any] = {"ids": served.ids, "first": served.first, "after": len(served.ids)}
        if isinstance(written, str):
            told = await self._read(target, served.ids)
            facts |= {"untold": written, "served": sums(told, served.first, len(served.ids), 0)}
            return facts, {**asked, "ended": 0, "whole": True}
        facts["trained_tokens"] = len(written.ids)
        end = ending(served, written, item.reference)
        apart = difference(served, written)
        ids = written.ids if apart is None else [*served.ids, *([] if end is None else [end])]
        asked |= {"ids": ids, "ended": int(end is not None), "whole": apart is None}
        told = await self._read(target, ids)
        facts["served"] = sums(told, served.first, len(served.ids), asked["ended"])
        if apart is not None:
            facts["difference"] = apart
            facts["served"].pop("whole", None)
            facts["trained"] = await self._trained(target, served, written)
        if end is not None:
            facts["ending"] = told[len(served.ids)]["token"][:80]
        return facts, asked

    async def _served(self, target: Target, item: Item) -> Served:
        asked = await self._ask(Question(target, ONE, item.messages, item.prompt, reading=READING, background=True))
        passage = Passage(target, item.reference, item.messages, item.prompt)
        found = await score_once(self.grant, passage, bounded=True)
        question = asked.prompt_logprobs
        first = found.usage["prompt_tokens"] - len(found.tokens)
        if not 0 <= first <= len(question):  # (an engine that does not count the reference)
            first = len(question)
        tokens = [*question[:first], *found.tokens]
        return Served([one["token_id"] for one in tokens], [one["token"] for one in tokens], first)

    async def _trained(self, target: Target, served: Served, written: Written) -> dict[str, Any]:
        """The loss as training writes it; nothing where its tokens are none of the base's."""
        reference = served.ids[served.first :]
        start = place_of(reference, written.ids)
        try:
            told = await self._read(target, written.ids)
        except ApiError as error:
            if error.status != 400:
                raise
            return {}
        if start is None:
            return {"whole": total(told)}
        after = start + len(reference)
        return sums(told, start, after, int(after < len(written.ids)))

    async def _read(
        self, target: Target, ids: Sequence[int], manager: ModelManager | None = None
    ) -> list[PromptLogprob]:
        """Each token with its probability. `manager`: of another engine. Raises ApiError."""
        question = Question(target, ONE, tokens=list(ids), reading=READING, background=True)
        return (await self._ask(question, manager)).prompt_logprobs

    async def _ask(self, question: Question, manager: ModelManager | None = None) -> WholeAnswer:
        return await answer(self.grant, question, bounded=True, manager=manager)


def _implied(pk: int | None) -> Implied:
    """Raises TargetFailedError."""
    adapter = LoraAdapter.objects.select_related("base").filter(pk=pk or 0).first()
    try:
        if adapter is None:
            raise InferenceError("unknown_target", detail={"name": str(pk)})
        return implied(adapter)
    except (InferenceError, Refused) as error:
        raise TargetFailedError from error
    except (EngineError, OSError, ValueError) as error:
        reason = str(error)[:200]
        raise TargetFailedError from InferenceError("base_load_failed", detail={"reason": reason})


def total(told: Sequence[PromptLogprob]) -> list[float]:
    """[loss in nats, tokens] of those that something precedes."""
    known = [one["logprob"] for one in told if one["logprob"] is not None]
    return [-sum(known), len(known)] if known else []


def sums(told: Sequence[PromptLogprob], first: int, after: int, ended: int) -> dict[str, list[float]]:
    """By way of counting (see `parity/figures.py`). The reference has the tokens from `first` to before `after`."""
    found = {"answer": total(told[first:after]), "whole": total(told)}
    if ended:
        found["ended"] = total(told[first : after + 1])
    return {way: one for way, one in found.items() if one}
