"""The models that may be asked, for lists in which one is chosen: light, searched and bounded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from common.answers import Answer, one_of
from inference.choices import LISTED, choices


class TargetChoice(Answer):
    slug: str
    name: str
    kind: Annotated[str, one_of(["adapter", "base"])]
    digest: str = Field(description="Beginning of the content hash; the same of models that answer alike.")
    base: str = Field(description="Name of the base model.")
    base_slug: str
    context: int | None = Field(description="Tokens that are served.")
    rank: int | None
    id: int | None = Field(description="Of an adapter.")
    run: str
    group: str = Field(description="The same of the checkpoints of one run.")
    checkpoint: int | None
    is_best: bool
    tags: list[str]


class TargetChoices(Answer):
    count: int = Field(description="How many match.")
    results: list[TargetChoice] = Field(description=f"At most {LISTED} adapters and as many base models.")


class TargetsView(APIView):
    """Active adapters and usable base models in which every word of `?search=` occurs."""

    permission_classes = [IsAuthenticated]

    def get(self, request: Request) -> Response:
        found = choices(search=request.query_params.get("search", "")[:200])
        return Response(TargetChoices.of(count=found.count, results=found.all))
