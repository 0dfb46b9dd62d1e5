"""`/v1/models`, `/v1/chat/completions`, `/v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
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
from inference.api.rest import json_object
from inference.gateway.asking import Question, ask
from inference.gateway.sampling import reseeded, wants_logprobs
from inference.gateway.targets import Target

from . import catalogue, reading
from .answers import ChatShape, CompletionShape, Envelope, Shape
from .errors import openai_exception_handler
from .reading import Asked
from .streaming import sse

PATIENCE = 2.0  # seconds for an early failure to become an HTTP status before a stream opens


class OpenAIView(APIView):
    permission_classes = [IsAuthenticated, CanInfer]

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response | None]:
        return openai_exception_handler


class ModelsView(OpenAIView):
    """Every model that may be asked: active adapters and usable bases."""

    async def get(self, request: ApiRequest) -> Response:
        return Response({"object": "list", "data": await database_sync_to_async(catalogue.listing)()})


class ModelView(OpenAIView):
    """One model."""

    async def get(self, request: ApiRequest, model: str) -> Response:
        return Response(await database_sync_to_async(catalogue.one)(model))


class AnswerView(OpenAIView):
    """What both calls share: read, resolve, run, answer whole or as a stream."""

    shape: Shape
    read: Callable[[Mapping[str, Any]], Asked]

    async def post(self, request: ApiRequest) -> HttpResponseBase:
        asked = type(self).read(json_object(request))
        target = await database_sync_to_async(catalogue.target_of)(asked.model)
        asking = await ask(Grant.of_request(request), questions(asked, target))
        envelope = Envelope(self.shape, asked.model, target.digest)
        headers = {"x-request-id": envelope.id, **asking.headers}
        if asked.stream:
            await asking.begin(PATIENCE)
            return stream_response(sse(asking, asked, envelope), headers)
        async with asking:
            answers = await asking.answers()
        return Response(envelope.whole(answers, asked.n, wants_logprobs(asked.params)), headers=headers)


class ChatCompletionsView(AnswerView):
    """Answer a conversation."""

    shape = ChatShape()
    read = staticmethod(reading.chat)


class CompletionsView(AnswerView):
    """Continue raw text."""

    shape = CompletionShape()
    read = staticmethod(reading.completion)


def questions(asked: Asked, target: Target) -> list[Question]:
    """One per choice: for each prompt `n`."""
    return [
        Question(target, reseeded(asked.params, number), asked.messages, prompt)
        for prompt in asked.prompts or (None,)
        for number in range(asked.n)
    ]


def stream_response(body: AsyncIterator[bytes], headers: dict[str, str]) -> StreamingHttpResponse:
    response = StreamingHttpResponse(body, content_type="text/event-stream; charset=utf-8", headers=headers)
    response["Cache-Control"] = "no-cache, no-transform"
    response["X-Accel-Buffering"] = "no"  # nginx would collect pieces otherwise
    return response
