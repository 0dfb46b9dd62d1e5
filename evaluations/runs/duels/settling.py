"""Comparisons are settled one by one, each verdict of a judge by itself: what was said is kept whatever comes next."""

from __future__ import annotations

from django.db import IntegrityError, transaction

from evaluations.models import Bout, Choice, Duel, Judgement, Outcome, Result
from evaluations.models.explaining import kept
from evaluations.runs.settling import Said

from .questions import MOST_CHARS, read

Texts = tuple[str, str]


def texts_of(bout: Bout) -> Texts:
    """The two answers, of `one` and of `other`."""
    rows = Result.objects.filter(item=bout.item_id, target__in=[bout.one_id, bout.other_id], answer__isnull=False)
    found = dict(rows.values_list("target", "answer__text"))
    return found[bout.one_id], found[bout.other_id]


def known(duel: Duel, key: str) -> Judgement | None:
    return Judgement.objects.filter(owner_id=duel.run.owner_id, key=key).first()


def keep(duel: Duel, key: str, said: Said) -> Judgement:
    facts = {
        "choice": read(said.text, said.finish_reason),
        "text": said.text[-MOST_CHARS:],
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": said.completion_tokens,
        "seconds": said.seconds,
    }
    judgement, _made = Judgement.objects.get_or_create(owner_id=duel.run.owner_id, key=key, defaults=facts)
    return judgement


def outcome_of(forward: str, backward: str) -> Outcome:
    """One wins where both orders say so; who is found better only where it is shown first, or second, ties."""
    if Choice.UNREADABLE in (forward, backward):
        return Outcome.NONE
    if (forward, backward) == (Choice.FIRST, Choice.SECOND):
        return Outcome.ONE
    if (forward, backward) == (Choice.SECOND, Choice.FIRST):
        return Outcome.OTHER
    return Outcome.TIE


def settle(bout: Bout, forward: Judgement, backward: Judgement, asked: int) -> None:
    outcome = outcome_of(forward.choice, backward.choice)
    _settle(bout, outcome=outcome, forward=forward, backward=backward, asked=asked)


def settle_same(bout: Bout) -> None:
    """Both answers are the same text."""
    _settle(bout, outcome=Outcome.TIE)


def settle_error(bout: Bout, error: BaseException) -> None:
    """The judge cannot say anything of this one, whatever happens."""
    _settle(bout, outcome=Outcome.NONE, **kept(error))


def _settle(bout: Bout, **facts: object) -> None:
    try:
        with transaction.atomic():
            Bout.objects.filter(pk=bout.pk, outcome=Outcome.WAITING).update(**facts)
    except IntegrityError:  # the judgements went with another head to head meanwhile; it is asked again
        pass
