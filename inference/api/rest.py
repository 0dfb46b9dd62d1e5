"""The JSON API of the running side: try an adapter, see what is loaded, free it.

The views are async to the bottom: a client that leaves cancels its view, and with it the request in the engine.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal

from adrf.views import APIView
from pydantic import Field
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.grants import Grant
from accounts.permissions import CanInfer, IsOperator
from common import answers as shapes
from common.shapes import Lenient, part
from inference.backends.interface import Worker
from inference.engine.params import SamplingParams
from inference.engine.protocol import Timings, Usage
from inference.gateway import operating
from inference.gateway.asking import Question, WholeAnswer, ask
from inference.gateway.blends import resolve_blend
from inference.gateway.targets import Target, resolve, resolve_adapter
from inference.params import Asked, Blend, ModelName, body

from .doors import Door
from .parts import BlendPartObject


class TestRequest(Asked, SamplingParams):
    """Either `messages` (the base's chat template is applied) or `prompt` (raw text), and sampling parameters."""

    adapters: Annotated[Blend | None, Field(description="Ask a blend; one of them is the adapter of the address.")] = (
        None
    )

    @property
    def sampling(self) -> SamplingParams:
        return part(SamplingParams, self)


class CountRequest(Asked, Lenient, extra="forbid"):
    model: ModelName


class LoadRequest(Lenient, extra="forbid"):
    model: ModelName
    pin: Annotated[
        bool | None,
        Field(description="true keeps the base model until it is unloaded; false no longer; null leaves it as it is."),
    ] = None


class TestAnswer(shapes.Answer):
    model: str
    response: str
    response_length: int = Field(description="Characters.")
    finish_reason: Literal["stop", "length", "cancelled"]
    usage: Usage
    timings: Timings
    digest: str = Field(description="Content hash of the adapter that answered; of a blend, of its recipe.")
    adapters: list[BlendPartObject] = Field([], exclude_if=operator.not_, description="A blend's recipe.")
    logprobs: list[dict[str, Any]] = Field([], exclude_if=operator.not_)


class Count(shapes.Answer):
    tokens: int
    context_length: int = Field(description="Tokens that prompt and answer may have together.")


class EngineStatus(shapes.Answer):
    worker: Worker
    engine: dict[str, Any] | None = Field(description="What is loaded, memory, queue.")


class Freed(shapes.Answer):
    freed_bytes: int


class TestView(Door):
    """Ask an active adapter and wait for the whole answer."""

    permission_classes = [IsAuthenticated, CanInfer]

    async def post(self, request: Request, pk: int) -> Response:
        asked = body(TestRequest, request.data)
        target = await resolve_adapter(pk)
        if asked.adapters is not None:
            target = await resolve_blend(asked.adapters, target.slug)
        question = Question(target, asked.sampling, asked.turns, asked.prompt)
        async with await ask(Grant.of_request(request), [question]) as asking:
            [answer] = await asking.answers()
        return Response(answer_json(target, answer), headers=asking.headers)


def answer_json(target: Target, answer: WholeAnswer) -> dict[str, Any]:
    more = {"adapters": target.recipe} if target.recipe else {}
    return TestAnswer.of(answer, model=target.slug, response=answer.text, response_length=len(answer.text), **more)


class CountView(APIView):
    """How many tokens a prompt has for a model, and how many the model takes."""

    permission_classes = [IsAuthenticated, CanInfer]

    async def post(self, request: Request) -> Response:
        asked = body(CountRequest, request.data)
        question = Question(await resolve(asked.model), SamplingParams(), asked.turns, asked.prompt)
        tokens, context_length = await operating.count(question)
        return Response(Count.of(tokens=tokens, context_length=context_length))


class StatusView(APIView):
    """What the engine holds and does. Starts nothing."""

    permission_classes = [IsAuthenticated, IsOperator]

    async def get(self, request: Request) -> Response:
        return Response(EngineStatus.of(**await operating.status()))


class LoadView(APIView):
    """Load a base model (or an adapter with its base) before anybody asks, and keep it loaded or no longer.

    Waits for the load, which the status shows meanwhile; a client that leaves does not stop it.
    """

    permission_classes = [IsAuthenticated, IsOperator]

    async def post(self, request: Request) -> Response:
        asked = body(LoadRequest, request.data)
        await operating.load(asked.model, asked.pin)
        return Response(EngineStatus.of(**await operating.status()))


class UnloadView(APIView):
    """Free the base model after what runs has ended."""

    permission_classes = [IsAuthenticated, IsOperator]

    async def post(self, request: Request) -> Response:
        return Response(Freed.of(freed_bytes=await operating.unload()))
