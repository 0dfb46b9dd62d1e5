"""The samples of a parity report in further precisions: in each an engine of its own reads the same tokens again.

One precision after the other, when all samples have been measured as they are served. A precision that cannot be
measured ends with its reason; the report goes on with the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from adapters.failures import Refused
from adapters.models import BaseModel
from common.api import ApiError
from evaluations.models import Parity, Sample
from evaluations.models.explaining import kept
from inference.engine.protocol import PromptLogprob
from inference.errors import InferenceError
from inference.gateway.apart import as_proven, engine_apart, refusal
from inference.gateway.targets import Target
from inference.manager import ModelManager

from .job import Job, TargetFailedError, in_database

LONGEST = 3 * 3600.0  # seconds of one precision
ENDED = ("done", "failed")
Read = Callable[[Target, Sequence[int], ModelManager], Awaitable[list[PromptLogprob]]]
Sums = Callable[[Sequence[PromptLogprob], int, int, int], dict[str, list[float]]]


class Elsewhere:
    """`read`: asks an engine for the probabilities of tokens; `sums`: what they come to."""

    def __init__(self, job: Job, report: Parity, target: Target, read: Read, sums: Sums) -> None:
        self.job, self.report = job, report
        self.target = as_proven(target)
        self.read, self.sums = read, sums

    async def measure(self) -> None:
        """All that is left. Raises ApiError where the whole report cannot go on."""
        for name in self.report.wanted:
            if self.report.others.get(name, {}).get("state") not in ENDED:
                error = await self._measured(name)
                await in_database(self._mark, name, "failed" if error else "done", **(kept(error) if error else {}))

    async def _measured(self, name: str) -> BaseException | None:
        """What it failed by."""
        if name == self.report.precision:  # it is what is served
            return None
        if (refused := await in_database(self._refusal, name)) is not None:
            return refused
        await in_database(self._mark, name, "running")
        try:
            async with asyncio.timeout(LONGEST), engine_apart(name) as manager:
                await self.job.few_at_once(await in_database(self._left, name), partial(self._sample, name, manager))
        except TargetFailedError as error:
            return error.__cause__ or error
        except TimeoutError:
            return InferenceError("precision_timeout")
        return None

    def _refusal(self, name: str) -> BaseException | None:
        base = BaseModel.objects.filter(key=self.report.base_key, missing=False).first()
        return refusal(base, name) if base is not None else Refused("changed_meanwhile")

    def _mark(self, name: str, state: str, **facts: Any) -> None:
        self.report.others = {**self.report.others, name: {"state": state, **facts}}
        Parity.objects.filter(pk=self.report.pk).update(others=self.report.others)

    def _left(self, name: str) -> list[Sample]:
        rows = Sample.objects.filter(parity=self.report, code="")
        return [row for row in rows if row.asked and name not in row.elsewhere]

    async def _sample(self, name: str, manager: ModelManager, sample: Sample) -> None:
        asked = sample.asked

        async def attempt() -> None:
            told = await self.read(self.target, asked["ids"], manager)
            found = self.sums(told, asked["first"], asked["after"], asked["ended"])
            if not asked["whole"]:
                found.pop("whole", None)
            await in_database(self._keep, sample, name, found)

        def refused(error: ApiError) -> None:
            self._keep(sample, name, kept(error))

        await self.job.persist(attempt, refused)

    def _keep(self, sample: Sample, name: str, found: dict[str, Any]) -> None:
        sample.elsewhere = {**sample.elsewhere, name: found}
        Sample.objects.filter(pk=sample.pk).update(elsewhere=sample.elsewhere)
