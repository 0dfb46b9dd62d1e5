"""The calls about one's own votes on comparisons."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers as s

from comparison.models import Verdict
from comparison.reading import GivenVote

from .calls import PAGING, call, describe, errors, example, query
from .objects import Serializer, page_of


class StoredCandidate(Serializer):
    model = s.CharField()
    name = s.CharField()
    digest = s.CharField()
    text = s.CharField(allow_blank=True)
    chosen = s.BooleanField()


class StoredVote(Serializer):
    run = s.UUIDField()
    verdict = s.ChoiceField(choices=Verdict.values)
    blind = s.BooleanField()
    prompt = s.CharField()
    system = s.CharField(allow_blank=True)
    params = s.DictField()
    candidates = StoredCandidate(many=True)
    created_at = s.DateTimeField()
    updated_at = s.DateTimeField()


class Standing(Serializer):
    model = s.CharField()
    name = s.CharField()
    digest = s.CharField()
    votes = s.IntegerField(help_text="In which it took part.")
    blind = s.IntegerField(help_text="Of these, blind ones.")
    wins = s.IntegerField()
    losses = s.IntegerField(help_text="Another one was best.")
    ties = s.IntegerField()
    none = s.IntegerField(help_text="None was good.")
    share = s.FloatField(help_text="Wins of votes.")
    low = s.FloatField(help_text="Lower end of the share's 95 % interval (Wilson).")
    high = s.FloatField()
    chance = s.FloatField(help_text="The share that blind luck would give.")


class Standings(Serializer):
    results = Standing(many=True)


FILTERS = [
    query("search", "Only with this text in prompt, answers or names."),
    query("model", "Only where the model of this slug took part."),
    query("kind", "Only blind or only open votes.", enum=["blind", "open"]),
]
RUN = OpenApiParameter(
    "run", OpenApiTypes.UUID, OpenApiParameter.PATH, description="The comparison's id, chosen by its client."
)
ANSWERS = [{"model": "pirate", "digest": "5" * 64, "text": "Ahoy!", "chosen": True}]
ANSWERS += [{"model": "haiku", "digest": "6" * 64, "text": "Hello", "chosen": False}]

describe(
    "comparison.api.VotesView",
    get=call(
        page_of(StoredVote, "VotePage"),
        "One's votes, newest first",
        401,
        403,
        404,
        operation_id="list_votes",
        parameters=[*FILTERS, *PAGING],
    ),
)
describe(
    "comparison.api.VoteView",
    get=call(StoredVote, "One vote", 401, 403, 404, operation_id="get_vote", parameters=[RUN]),
    put=extend_schema(
        summary="Cast a vote, or change it",
        operation_id="put_vote",
        parameters=[RUN],
        request=GivenVote,
        responses={200: StoredVote, 201: StoredVote, **errors(400, 401, 403, 404, 409, 413, 415)},
        examples=example({"verdict": "best", "blind": True, "prompt": "Hello!", "candidates": ANSWERS}),
    ),
    delete=extend_schema(
        summary="Delete a vote",
        operation_id="delete_vote",
        parameters=[RUN],
        request=None,
        responses={204: None, **errors(401, 403, 404)},
    ),
)
describe(
    "comparison.api.VoteSummaryView",
    get=call(
        Standings,
        "Wins and losses by model and digest",
        401,
        403,
        404,
        operation_id="votes_summary",
        parameters=FILTERS,
    ),
)
describe(
    "comparison.api.VoteExportView",
    get=extend_schema(
        summary="Votes as preference pairs (JSONL) or as a table (CSV)",
        parameters=FILTERS,
        responses={
            (200, "application/x-ndjson"): OpenApiResponse(OpenApiTypes.STR),
            (200, "text/csv"): OpenApiResponse(OpenApiTypes.STR),
            **errors(401, 403, 404),
        },
    ),
)
