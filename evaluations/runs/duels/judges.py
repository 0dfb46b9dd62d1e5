"""Who judges: a model of this portal, through the gateway as everybody asks it, or the judge model of the settings."""

from __future__ import annotations

from typing import Protocol

from accounts.grants import Grant
from evaluations.models import Duel
from evaluations.runs.job import answered
from evaluations.runs.keys import facts_of
from evaluations.runs.settling import Said
from inference.engine.params import SamplingParams
from inference.gateway.asking import Question
from inference.gateway.targets import Target, find

from . import outside
from .errors import JudgeError
from .outside import Outside

MOST_CHARS = 20_000  # of what a judge says; then it is stopped


class Judge(Protocol):
    async def ask(self, messages: list[dict[str, str]]) -> Said:
        """Raises ApiError."""

    async def close(self) -> None: ...


class PortalJudge:
    def __init__(self, duel: Duel, grant: Grant, target: Target) -> None:
        self.grant, self.target = grant, target
        self.params = SamplingParams.model_validate(duel.params)

    async def ask(self, messages: list[dict[str, str]]) -> Said:
        return await answered(self.grant, Question(self.target, self.params, messages, background=True), MOST_CHARS)

    async def close(self) -> None:
        pass


class OutsideJudge:
    def __init__(self, duel: Duel) -> None:
        self.params = duel.params
        self.server = Outside()

    async def ask(self, messages: list[dict[str, str]]) -> Said:
        return await self.server.ask(messages, self.params)

    async def close(self) -> None:
        await self.server.close()


def ready(duel: Duel) -> Target | None:
    """The model that judges, None for the one of the settings; its digests are kept. Raises ApiError.

    A judge that is another one than before is refused: one table has one judge.
    """
    target = find(duel.judge) if duel.judge else None
    if target is None and not outside.is_configured():
        raise JudgeError("judge_off")
    facts = facts_of(target) if target else {"digest": outside.digest()}
    if duel.digest and any(getattr(duel, field) != value for field, value in facts.items()):
        raise JudgeError("judge_changed")
    for field, value in facts.items():
        setattr(duel, field, value)
    Duel.objects.filter(pk=duel.pk).update(**facts)
    return target


def open_judge(duel: Duel, grant: Grant, target: Target | None) -> Judge:
    """In the event loop that asks it."""
    return OutsideJudge(duel) if target is None else PortalJudge(duel, grant, target)
