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

from accounts.access import Grant
from accounts.permissions import CanInfer
from inference.api.rest import json_object
from inference.engine.protocol import Params
from inference.errors import InferenceError, api_error
from inference.gateway.targets import Target
from inference.manager import Request
from inference.quota.limits import admit

from . import catalogue, reading
from .answers import ChatShape, CompletionShape, Envelope, Shape, Total
from .errors import openai_exception_handler
from .reading import Asked
from .running import Run
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
        grant = Grant.of_request(request)
        ticket = await admit(grant, target.slug, target.digest, asked.params, asked.choices)
        run = Run(engine_requests(asked, target, f"user:{grant.user_id}"), grant, ticket)
        envelope = Envelope(self.shape, asked.model, target.digest)
        headers = {"x-request-id": envelope.id, **ticket.headers}
        try:
            if asked.stream:
                await run.begin(PATIENCE)
                return stream_response(sse(run, asked, envelope, target.name), headers)
            body = await whole(run, asked, envelope)
        except InferenceError as error:
            run.close()
            raise api_error(error, raw_prompt=asked.raw, name=target.name) from None
        except BaseException:
            run.close()
            raise
        run.close()
        return Response(body, headers=headers)


class ChatCompletionsView(AnswerView):
    """Answer a conversation."""

    shape = ChatShape()
    read = staticmethod(reading.chat)


class CompletionsView(AnswerView):
    """Continue raw text."""

    shape = CompletionShape()
    read = staticmethod(reading.completion)


def engine_requests(asked: Asked, target: Target, user: str) -> list[Request]:
    """One per choice: for each prompt `n`, with seeds that differ."""
    requests: list[Request] = []
    for prompt in asked.prompts or (None,):
        for number in range(asked.n):
            params: Params = {**asked.params}
            seed = params.get("seed")
            if seed is not None and number:
                params["seed"] = (seed + number) % 2**63
            requests.append(
                Request(
                    user=user,
                    base=target.base,
                    adapter=target.adapter,
                    messages=asked.messages,
                    prompt=prompt,
                    params=params,
                )
            )
    return requests


async def whole(run: Run, asked: Asked, envelope: Envelope) -> dict[str, Any]:
    texts: dict[int, list[str]] = {}
    logprobs: dict[int, list[Mapping[str, Any]]] = {}
    ends: dict[int, Mapping[str, Any]] = {}
    total = Total()
    while (item := await run.next()) is not None:
        choice, event = item
        logprobs.setdefault(choice, []).extend(event.get("logprobs") or ())
        if event["type"] == "token":
            texts.setdefault(choice, []).append(event["text"])
        elif event["type"] == "done":
            ends[choice] = event
            total.add(choice, event)
    wanted = asked.params.get("logprobs") is not None
    choices = [
        envelope.shape.whole(choice, "".join(texts.get(choice, ())), logprobs[choice] if wanted else None, end)
        for choice, end in sorted(ends.items())
    ]
    return envelope.whole(choices, total, asked.n)


def stream_response(body: AsyncIterator[bytes], headers: dict[str, str]) -> StreamingHttpResponse:
    response = StreamingHttpResponse(body, content_type="text/event-stream; charset=utf-8", headers=headers)
    response["Cache-Control"] = "no-cache, no-transform"
    response["X-Accel-Buffering"] = "no"  # nginx would collect pieces otherwise
    return response
