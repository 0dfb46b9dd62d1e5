"""The JSON API of the running side: try an adapter, see what is loaded, free it.

The views are async to the bottom: a client that leaves cancels its view, and with it the request in the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adrf.views import APIView
from django.utils.translation import gettext as _
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.grants import Grant
from accounts.permissions import CanInfer, IsOperator
from common.api import ApiError
from inference import params
from inference.gateway import operating
from inference.gateway.asking import Answer, Question, ask
from inference.gateway.targets import Target, resolve, resolve_adapter

ASKED = ("messages", "prompt")


def json_object(request: Request) -> Mapping[str, Any]:
    """The body, which must be a JSON object."""
    data = request.data
    if not isinstance(data, Mapping):
        raise ApiError("invalid_type", _("The body must be a JSON object."))
    return data


class TestView(APIView):
    """Ask an active adapter and wait for the whole answer."""

    permission_classes = [IsAuthenticated, CanInfer]

    async def post(self, request: Request, pk: int) -> Response:
        data = json_object(request)
        messages, prompt = params.either(data)
        sampling = params.sampling({key: value for key, value in data.items() if key not in ASKED})
        target = await resolve_adapter(pk)
        question = Question(target, sampling, messages, prompt)
        async with await ask(Grant.of_request(request), [question]) as asking:
            [answer] = await asking.answers()
        return Response(answer_json(target, answer), headers=asking.headers)


def answer_json(target: Target, answer: Answer) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": target.slug,
        "response": answer.text,
        "response_length": len(answer.text),
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "timings": answer.timings,
        "digest": answer.digest,
    }
    if answer.logprobs:
        body["logprobs"] = answer.logprobs
    return body


class CountView(APIView):
    """How many tokens a prompt has for a model, and how many the model takes."""

    permission_classes = [IsAuthenticated, CanInfer]

    async def post(self, request: Request) -> Response:
        data = json_object(request)
        name = params.text(data.get("model"), "model", 200)
        unknown = next((key for key in data if key not in ("model", *ASKED)), None)
        if unknown is not None:
            raise params.refuse(str(unknown)[:64], "unknown_parameter", _("There is no parameter named %(param)s."))
        messages, prompt = params.either(data)
        question = Question(await resolve(name), {}, messages, prompt)
        tokens, context_length = await operating.count(question)
        return Response({"tokens": tokens, "context_length": context_length})


class StatusView(APIView):
    """What the engine holds and does. Starts nothing."""

    permission_classes = [IsAuthenticated, IsOperator]

    async def get(self, request: Request) -> Response:
        return Response(await operating.status())


class LoadView(APIView):
    """Load a base model (or an adapter with its base) before anybody asks, and keep it loaded or no longer.

    Waits for the load, which the status shows meanwhile; a client that leaves does not stop it.
    """

    permission_classes = [IsAuthenticated, IsOperator]

    async def post(self, request: Request) -> Response:
        data = json_object(request)
        name = params.text(data.get("model"), "model", 200)
        pin = data.get("pin")
        unknown = next((key for key in data if key not in ("model", "pin")), None)
        if unknown is not None:
            raise params.refuse(str(unknown)[:64], "unknown_parameter", _("There is no parameter named %(param)s."))
        if pin is not None and not isinstance(pin, bool):
            raise params.refuse("pin", "invalid_type", _("%(param)s must be true or false."))
        await operating.load(name, pin)
        return Response(await operating.status())


class UnloadView(APIView):
    """Free the base model after what runs has ended."""

    permission_classes = [IsAuthenticated, IsOperator]

    async def post(self, request: Request) -> Response:
        return Response({"freed_bytes": await operating.unload()})
