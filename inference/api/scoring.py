"""`/api/inference/score`: how likely texts are after messages, by several models at once.

For programs that compare models: all of it waits behind whoever waits for an answer (`gateway/scoring.py`).
"""

from __future__ import annotations

import operator
from contextlib import aclosing
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.grants import Grant
from accounts.permissions import CanInfer
from common import answers as shapes
from common.api import ApiError, error_body
from common.shapes import NotEmpty, Shape, refuse
from inference.gateway.scoring import Passage, TextScore, score
from inference.gateway.targets import resolve
from inference.params import Asked, ModelName, Text, body

from .doors import Door

MAX_MODELS, MAX_ITEMS = 8, 64


class ScoredItem(Asked):
    """Either `messages` (each model's own chat template is applied) or `prompt`, and what comes after it."""

    text: Annotated[Text, NotEmpty, Field(description="The text whose probability is asked.")]


def at_most(most: int) -> BeforeValidator:
    """1 to `most` entries, seen to before any of them is read."""

    def check(value: Any) -> Any:
        if not isinstance(value, list):
            raise refuse("list_type")
        if not 1 <= len(value) <= most:
            raise refuse("entries", low=1, high=most)
        return value

    return BeforeValidator(check)


class ScoreRequest(Shape):
    models: Annotated[list[ModelName], Field(max_length=MAX_MODELS), at_most(MAX_MODELS)]
    items: Annotated[list[ScoredItem], Field(max_length=MAX_ITEMS), at_most(MAX_ITEMS)]
    logprobs: Annotated[bool, Field(description="Tell of each token too.")] = False


class Score(shapes.Answer):
    model: str
    item: int = Field(description="Number of the item, from 0.")
    tokens: int | None = Field(None, description="Of the text.")
    logprob: float | None = Field(None, description="Natural logarithm of the text's probability.")
    loss: float | None = Field(None, description="Mean cross-entropy of a token, in nats.")
    digest: str | None = Field(None, description="Content hash of the adapter that answered, or the base's key.")
    logprobs: list[dict[str, Any]] = Field([], exclude_if=operator.not_)
    error: shapes.ErrorObject | None = Field(None, description="Why there is none.")


class Scores(shapes.Answer):
    scores: list[Score] = Field(description="By item, then by model, in the order in which they were asked.")


class ScoreView(Door):
    """Score texts with models. One that cannot be scored says why, and ends no other."""

    permission_classes = [IsAuthenticated, CanInfer]

    async def post(self, request: Request) -> Response:
        asked = body(ScoreRequest, request.data)
        targets = [await resolve(name) for name in asked.models]
        passages = [Passage(target, item.text, item.turns, item.prompt) for item in asked.items for target in targets]
        found: dict[int, TextScore | ApiError] = {}
        async with aclosing(score(Grant.of_request(request), passages)) as scores:
            async for number, one in scores:
                found[number] = one
        listed = []
        for number, one in sorted(found.items()):
            item, model = divmod(number, len(targets))
            listed.append(Score.of(model=asked.models[model], item=item, **told(one, asked.logprobs)))
        return Response(Scores.of(scores=listed))


def told(one: TextScore | ApiError, logprobs: bool) -> dict[str, Any]:
    if isinstance(one, ApiError):
        return {"error": error_body(one.code, one.message, one.param)["error"]}
    facts = {"tokens": len(one.tokens), "logprob": one.logprob, "loss": one.loss, "digest": one.digest}
    return facts | ({"logprobs": one.tokens} if logprobs else {})
