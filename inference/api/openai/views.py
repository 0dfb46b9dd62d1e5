"""`/v1/models`, `/v1/chat/completions`, `/v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from adrf.views import APIView
from channels.db import database_sync_to_async
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request as ApiRequest
from rest_framework.response import Response

from accounts.grants import Grant
from accounts.permissions import CanInfer
from common.request_ids import HEADER, adopt
from inference.api.doors import Door
from inference.engine.params import SamplingParams
from inference.gateway.asking import Question, ask
from inference.gateway.targets import Target
from inference.params import body

from . import bodies, catalogue
from .answers import ChatShape, CompletionShape, Envelope, Shape
from .bodies import OpenAIRequest
from .errors import openai_exception_handler
from .streaming import sse

PATIENCE = 2.0  # seconds for an early failure to become an HTTP status before a stream opens


class OpenAIView(APIView):
    permission_classes = [IsAuthenticated, CanInfer]

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response | None]:
        return openai_exception_handler


class ModelsView(OpenAIView):
    """Every model that may be asked: active adapters and usable bases."""

    async def get(self, request: ApiRequest) -> Response:
        return Response(catalogue.Models.of(object="list", data=await database_sync_to_async(catalogue.listing)()))


class ModelView(OpenAIView):
    """One model."""

    async def get(self, request: ApiRequest, model: str) -> Response:
        return Response(await database_sync_to_async(catalogue.one)(model))


class AnswerView(Door, OpenAIView):
    """What both calls share: read, resolve, run, answer whole or as a stream."""

    shape: Shape
    body: type[OpenAIRequest]

    async def post(self, request: ApiRequest) -> HttpResponseBase:
        asked = body(self.body, request.data)
        params = asked.params
        target = await database_sync_to_async(catalogue.target_of)(asked.model, asked.adapters)
        envelope = Envelope(self.shape, asked.model, target.digest, target.recipe)
        named = {HEADER: adopt(envelope.id)}
        asking = await ask(Grant.of_request(request), questions(asked, params, target))
        headers = {**named, **asking.headers}
        if asked.stream:
            await asking.begin(PATIENCE)
            return stream_response(sse(asking, asked, envelope), headers)
        async with asking:
            answers = await asking.answers()
        return Response(envelope.whole(answers, asked.n, params.logprobs is not None), headers=headers)


class ChatCompletionsView(AnswerView):
    """Answer a conversation."""

    shape = ChatShape()
    body = bodies.ChatRequest


class CompletionsView(AnswerView):
    """Continue raw text."""

    shape = CompletionShape()
    body = bodies.CompletionRequest


def questions(asked: OpenAIRequest, params: SamplingParams, target: Target) -> list[Question]:
    """One per choice: for each prompt `n`."""
    return [
        Question(
            target,
            params.for_answer(number),
            asked.turns,
            prompt if isinstance(prompt, str) else None,
            asked.continues,
            prompt if isinstance(prompt, list) else None,
            asked.reading,
        )
        for prompt in asked.prompts or (None,)
        for number in range(asked.n)
    ]


def stream_response(body: AsyncIterator[bytes], headers: dict[str, str]) -> StreamingHttpResponse:
    response = StreamingHttpResponse(body, content_type="text/event-stream; charset=utf-8", headers=headers)
    response["Cache-Control"] = "no-cache, no-transform"
    response["X-Accel-Buffering"] = "no"  # nginx would collect pieces otherwise
    return response
