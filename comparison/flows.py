"""Casting votes, and finding one's own. Synchronous."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from adapters.models import BaseModel, LoraAdapter
from common.api import ApiError
from inference.engine.params import SamplingParams
from inference.gateway.operating import wait_booked
from inference.models import UsageDay

from .bodies import GivenCandidate, GivenVote
from .models import Candidate, Vote, VoteQuerySet

MOST_VOTES = 10_000  # of one account
FLUSH_SECONDS = 3.0


def cast_vote(user: User, run: uuid.UUID, given: GivenVote) -> tuple[Vote, bool]:
    """Store the vote on `run`, instead of an earlier one; true where there was none. Raises ApiError.

    A vote is blind as long as it stands as it was cast: whoever changes it has seen the names.
    """
    check_digests(user, given.candidates)
    facts = {
        "prompt": given.prompt,
        "system": given.system or "",
        "params": given.params.given() if given.params else {},
        "verdict": given.verdict,
        "blind": given.blind,
        "size": len(given.candidates),
    }
    with transaction.atomic():
        own = Vote.objects.of(user)
        if not own.filter(run=run).exists() and own.count() >= MOST_VOTES:
            raise ApiError("too_many", _("You have too many votes. Export and delete some first."), 409)
        vote, made = Vote.objects.get_or_create(user=user, run=run, defaults=facts)
        vote = Vote.objects.select_for_update().get(pk=vote.pk)
        if not made:
            facts["blind"] = given.blind and vote.blind and _same(vote, given)
            for name, value in facts.items():
                setattr(vote, name, value)
            vote.save(update_fields=[*facts, "updated_at"])
            vote.candidates.all().delete()
        rows = [Candidate(vote=vote, position=index, **facts_of(one)) for index, one in enumerate(given.candidates)]
        Candidate.objects.bulk_create(rows)
    return vote, made


def _same(vote: Vote, given: GivenVote) -> bool:
    before = [facts_of(candidate) for candidate in vote.candidates.all()]
    return vote.verdict == given.verdict and before == [facts_of(one) for one in given.candidates]


def facts_of(one: GivenCandidate | Candidate) -> dict[str, Any]:
    own = one.params.given() if isinstance(one.params, SamplingParams) else one.params or {}
    if isinstance(one, Candidate):
        model, adapters = one.model, one.adapters
    else:
        model, adapters = one.called, [part.model_dump() for part in one.recipe]
    facts = {"model": model, "name": one.name or model, "params": own, "adapters": adapters}
    return {**facts, "digest": one.digest, "text": one.text, "chosen": one.chosen}


def check_digests(user: User, candidates: Sequence[GivenCandidate]) -> None:
    """Every digest is one that this portal serves under that name, or did when this account asked it. Else ApiError.

    Of a blend that is each adapter's, which its own is made of.
    """
    unknown = _unknown(user, candidates)
    if unknown:
        wait_booked(FLUSH_SECONDS)  # what was asked a moment ago
        unknown = _unknown(user, candidates)
    if unknown:
        message = _("No answer to you from %(model)s with this digest was found.") % {
            "model": candidates[unknown[0]].called
        }
        raise ApiError("unknown_digest", message, 400, f"candidates.{unknown[0]}.digest")


def _unknown(user: User, candidates: Sequence[GivenCandidate]) -> list[int]:
    digests = {part.digest for candidate in candidates for part in candidate.recipe}
    digests |= {candidate.digest for candidate in candidates}
    known = {
        *LoraAdapter.objects.filter(digest__in=digests).values_list("slug", "digest"),
        *BaseModel.objects.filter(key__in=digests).values_list("slug", "key"),
        *UsageDay.objects.filter(user=user, digest__in=digests).values_list("model", "digest"),
    }

    def is_known(one: GivenCandidate) -> bool:
        members = [(part.model, part.digest) in known for part in one.recipe]
        return (one.called, one.digest) in known or (bool(members) and all(members))

    return [index for index, one in enumerate(candidates) if not is_known(one)]


def wanted(user: Any, query: Mapping[str, Any]) -> VoteQuerySet:
    """One's votes, narrowed by `search` (prompt, answers, names), `model` (slug) and `kind` (`blind` or `open`)."""
    rows = Vote.objects.of(user)
    if (kind := query.get("kind")) in ("blind", "open"):
        rows = rows.filter(blind=kind == "blind")
    if model := clean(query, "model", 128):
        rows = rows.filter(pk__in=Candidate.objects.filter(model=model, vote__user=user).values("vote"))
    if search := clean(query, "search", 200):
        candidates = Candidate.objects.filter(vote__user=user)
        found = candidates.filter(Q(text__icontains=search) | Q(name__icontains=search) | Q(model__icontains=search))
        rows = rows.filter(Q(prompt__icontains=search) | Q(pk__in=found.values("vote")))
    return rows


def named(user: Any, run: str) -> Vote | None:
    """One's own vote that an address names."""
    try:
        return Vote.objects.of(user).prefetch_related("candidates").filter(run=uuid.UUID(run)).first()
    except ValueError:
        return None


def clean(query: Mapping[str, Any], name: str, limit: int) -> str:
    return str(query.get(name, "")).strip()[:limit].replace("\0", "")


def models_of(user: Any) -> list[str]:
    """Slugs of the models that one has voted on."""
    found = Candidate.objects.filter(vote__user=user).order_by("model").values_list("model", flat=True)
    return list(found.distinct())
