"""Votes as JSON, as preference pairs (JSONL) and as CSV."""

from __future__ import annotations

import csv
import io
import json
import operator
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from channels.db import database_sync_to_async
from pydantic import Field

from common.answers import Answer, one_of
from inference.api.parts import BlendPartObject

from .models import Candidate, Verdict, Vote, VoteQuerySet

CHUNK = 100  # votes in memory at once
FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = (
    "run", "created_at", "blind", "verdict", "prompt", "system", "params",
    "position", "model", "name", "digest", "own_params", "adapters", "chosen", "answer",
)  # fmt: skip


class StoredCandidate(Answer):
    model: str
    name: str
    params: dict[str, Any] = Field(description="What it was asked with beside the vote's params.")
    digest: str
    adapters: list[BlendPartObject] = Field([], exclude_if=operator.not_, description="Of a blend.")
    text: str
    chosen: bool


class StoredVote(Answer):
    run: UUID
    verdict: Annotated[str, one_of(Verdict.values)]
    blind: bool
    prompt: str
    system: str
    params: dict[str, Any]
    candidates: list[StoredCandidate]
    created_at: datetime
    updated_at: datetime


def vote_json(vote: Vote) -> dict[str, Any]:
    return StoredVote.of(vote, candidates=list(vote.candidates.all()))


def pairs(vote: Vote) -> Iterator[dict[str, Any]]:
    """The chosen answer against each other one; nothing where none was chosen."""
    candidates = list(vote.candidates.all())
    best = next((one for one in candidates if one.chosen), None)
    if vote.verdict != Verdict.BEST or best is None:
        return
    asked = {"prompt": vote.prompt, "system": vote.system, "params": vote.params}
    for one in candidates:
        if one is not best:
            yield {**asked, "chosen": side(best), "rejected": side(one), "run": str(vote.run), "blind": vote.blind}


def side(candidate: Candidate) -> dict[str, Any]:
    facts = {"model": candidate.model, "digest": candidate.digest, "text": candidate.text}
    own = {"params": candidate.params, "adapters": candidate.adapters}
    return {**facts, **{name: value for name, value in own.items() if value}}


def jsonl(votes: list[Vote]) -> str:
    return "".join(f"{json.dumps(pair, ensure_ascii=False)}\n" for vote in votes for pair in pairs(vote))


def table(votes: list[Vote]) -> str:
    """Rows of CSV, one for each answer."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    for vote in votes:
        made, params = vote.created_at.isoformat(), json.dumps(vote.params, ensure_ascii=False)
        asked = (vote.run, made, vote.blind, vote.verdict, vote.prompt, vote.system, params)
        for c in vote.candidates.all():
            own = json.dumps(c.params, ensure_ascii=False)
            adapters = json.dumps(c.adapters, ensure_ascii=False) if c.adapters else ""
            row = (*asked, c.position + 1, c.model, c.name, c.digest, own, adapters, c.chosen, c.text)
            writer.writerow([cell(value) for value in row])
    return text.getvalue()


def cell(value: Any) -> str:
    """A spreadsheet would run what begins like a formula: a quotation mark before it disarms it."""
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def header() -> str:
    """The byte order mark tells spreadsheets that this is UTF-8."""
    return "\ufeff" + ",".join(COLUMNS) + "\r\n"


async def written(votes: VoteQuerySet, write: Callable[[list[Vote]], str], head: str = "") -> AsyncIterator[bytes]:
    """All of `votes`, the oldest first, a few at a time."""
    if head:
        yield head.encode()
    ordered = votes.order_by("pk").prefetch_related("candidates")
    last = 0
    while chunk := await _chunk(ordered, last):
        last = chunk[-1].pk
        yield write(chunk).encode("utf-8", "replace")


@database_sync_to_async
def _chunk(votes: VoteQuerySet, after: int) -> list[Vote]:
    return list(votes.filter(pk__gt=after)[:CHUNK])
