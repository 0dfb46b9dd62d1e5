"""The calls about one's own votes on comparisons."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from common.answers import page_of
from common.pairwise import HeadToHead
from comparison.bodies import GivenVote
from comparison.export import StoredVote
from comparison.summary import Standings

from .calls import PAGING, READING, call, describe, errors, example, query

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
        *READING,
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
    delete=call(None, "Delete a vote", *READING, status=204, operation_id="delete_vote", parameters=[RUN]),
)
describe(
    "comparison.api.VoteSummaryView",
    get=call(
        Standings, "Wins and losses by model and digest", *READING, operation_id="votes_summary", parameters=FILTERS
    ),
)
describe(
    "comparison.api.VoteHeadToHeadView",
    get=call(
        HeadToHead, "Win rates of each pair of models, and a ranking", *READING, operation_id="votes_head_to_head",
        parameters=FILTERS,
    ),
)  # fmt: skip
describe(
    "comparison.api.VoteExportView",
    get=extend_schema(
        summary="Votes as preference pairs (JSONL) or as a table (CSV)",
        parameters=FILTERS,
        responses={
            (200, "application/x-ndjson"): OpenApiResponse(OpenApiTypes.STR),
            (200, "text/csv"): OpenApiResponse(OpenApiTypes.STR),
            **errors(*READING),
        },
    ),
)
