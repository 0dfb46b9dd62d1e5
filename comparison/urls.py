from __future__ import annotations

from common.routes import both

from . import api, pages

urlpatterns = [
    *both("compare", pages.compare, "compare"),
    *both("compare/votes", pages.votes, "votes"),
    *both("compare/votes/<uuid:run>/delete", pages.delete_vote, "vote-delete"),
    *both("api/compare/votes", api.Votes.as_view(), "api_votes"),
    *both("api/compare/votes/<uuid:run>", api.VoteView.as_view(), "api_vote"),
    *both("api/compare/votes/export.jsonl", api.Export.as_view(), "api_votes_jsonl", {"kind": "jsonl"}),
    *both("api/compare/votes/export.csv", api.Export.as_view(), "api_votes_csv", {"kind": "csv"}),
    *both("api/compare/summary", api.Summary.as_view(), "api_votes_summary"),
]
