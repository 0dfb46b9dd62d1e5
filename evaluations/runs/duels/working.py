"""One head to head, from where it is to its end. A process that is killed loses no more than the verdicts it was at."""

from __future__ import annotations

from collections.abc import Callable

from django.db.models import QuerySet

from evaluations.models import Bout, Duel, Judgement, Outcome
from evaluations.runs.job import Job, TargetFailedError, in_database

from . import settling
from .judges import Judge, open_judge, ready
from .questions import judgement_key, question

CHUNK = 200  # comparisons in memory at once


class Judging(Job):
    kind = Duel

    def __init__(self, duel: Duel, alive: Callable[[], None]) -> None:
        super().__init__(duel, duel.run.owner, alive)
        self.duel = duel

    async def steps(self) -> None:
        target = await in_database(ready, self.duel)
        judge = open_judge(self.duel, self.grant, target)
        try:
            while bouts := await in_database(self._left):
                await self.few_at_once(bouts, lambda bout: self._bout(judge, bout))
        except TargetFailedError as error:
            raise error.__cause__ or error from None
        finally:
            await judge.close()

    def _left(self) -> list[Bout]:
        rows: QuerySet[Bout] = Bout.objects.filter(duel=self.duel, outcome=Outcome.WAITING)
        return list(rows.select_related("item").order_by("pk")[:CHUNK])

    async def _bout(self, judge: Judge, bout: Bout) -> None:
        one, other = await in_database(settling.texts_of, bout)
        if one.strip() == other.strip():
            return await in_database(settling.settle_same, bout)

        async def attempt() -> None:
            forward, first = await self._judgement(judge, bout, one, other)
            backward, second = await self._judgement(judge, bout, other, one)
            await in_database(settling.settle, bout, forward, backward, first + second)

        await self.persist(attempt, lambda error: settling.settle_error(bout, error))

    async def _judgement(self, judge: Judge, bout: Bout, first: str, second: str) -> tuple[Judgement, int]:
        """What the judge says of this order, and how often it was asked for that: 0 where it was known."""
        messages = question(bout.item, first, second, self.duel.criteria)
        key = judgement_key(self.duel, messages)
        found = await in_database(settling.known, self.duel, key)
        if found is not None:
            return found, 0
        said = await judge.ask(messages)
        return await in_database(settling.keep, self.duel, key, said), 1
