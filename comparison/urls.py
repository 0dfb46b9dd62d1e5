from __future__ import annotations

from common.routes import optional_slash

from . import api, pages

urlpatterns = [
    *optional_slash("compare", pages.compare, "compare"),
    *optional_slash("compare/votes", pages.votes, "votes"),
    *optional_slash("compare/head-to-head", pages.head_to_head, "votes-duel"),
    *optional_slash("compare/votes/<uuid:run>/delete", pages.delete_vote, "vote-delete"),
    *optional_slash("api/compare/votes", api.VotesView.as_view(), "api_votes"),
    *optional_slash("api/compare/votes/<uuid:run>", api.VoteView.as_view(), "api_vote"),
    *optional_slash(
        "api/compare/votes/export.jsonl", api.VoteExportView.as_view(), "api_votes_jsonl", {"kind": "jsonl"}
    ),
    *optional_slash("api/compare/votes/export.csv", api.VoteExportView.as_view(), "api_votes_csv", {"kind": "csv"}),
    *optional_slash("api/compare/head-to-head", api.VoteHeadToHeadView.as_view(), "api_votes_duel"),
    *optional_slash("api/compare/summary", api.VoteSummaryView.as_view(), "api_votes_summary"),
]
