"""The JSON API of the running side: try an adapter, see what is loaded, free it.

The views are async to the bottom: a client that leaves cancels its view, and with it the request in the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from adrf.views import APIView
from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request as ApiRequest
from rest_framework.response import Response

from accounts.access import Grant
from accounts.permissions import CanInfer, IsOperator
from common.api import ApiError
from inference import params
from inference.errors import InferenceError, api_error
from inference.gateway.targets import Target, resolve, resolve_adapter
from inference.manager import Answer, Request, get_manager
from inference.quota.limits import admit

ASKED = ("messages", "prompt")


def json_object(request: ApiRequest) -> Mapping[str, Any]:
    """The body, which must be a JSON object."""
    data = request.data
    if not isinstance(data, Mapping):
        raise ApiError("invalid_type", _("The body must be a JSON object."))
    return data


class TestView(APIView):
    """Ask an active adapter and wait for the whole answer."""

    permission_classes = [IsAuthenticated, CanInfer]

    async def post(self, request: ApiRequest, pk: int) -> Response:
        data = json_object(request)
        messages, prompt = params.either(data)
        sampling = params.sampling({key: value for key, value in data.items() if key not in ASKED})
        name = ""
        try:
            target = await resolve_adapter(pk)
            name = target.name
            asked = Request(
                user=f"user:{request.user.pk}",
                base=target.base,
                adapter=target.adapter,
                messages=messages,
                prompt=prompt,
                params=sampling,
            )
            async with await admit(Grant.of_request(request), target.slug, target.digest, sampling) as ticket:
                answer = await get_manager().run(asked, partial(ticket.end, 0))
        except InferenceError as error:
            raise api_error(error, raw_prompt=prompt is not None, name=name) from None
        return Response(answer_json(target, answer), headers=ticket.headers)


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

    async def post(self, request: ApiRequest) -> Response:
        data = json_object(request)
        name = params.text(data.get("model"), "model", 200)
        unknown = next((key for key in data if key not in ("model", *ASKED)), None)
        if unknown is not None:
            raise params.refuse(str(unknown)[:64], "unknown_parameter", _("There is no parameter named %(param)s."))
        messages, prompt = params.either(data)
        try:
            target = await resolve(name)
            tokens, context_length = await get_manager().count_tokens(target.base, messages, prompt)
        except InferenceError as error:
            raise api_error(error, raw_prompt=prompt is not None, name=name) from None
        limit = min(context_length, settings.ENGINE_MAX_CONTEXT)
        return Response({"tokens": tokens, "context_length": limit})


class StatusView(APIView):
    """What the engine holds and does. Starts nothing."""

    permission_classes = [IsAuthenticated, IsOperator]

    async def get(self, request: ApiRequest) -> Response:
        return Response(await get_manager().status())


class LoadView(APIView):
    """Load a base model (or an adapter with its base) before anybody asks, and keep it loaded or no longer.

    Waits for the load, which the status shows meanwhile; a client that leaves does not stop it.
    """

    permission_classes = [IsAuthenticated, IsOperator]

    async def post(self, request: ApiRequest) -> Response:
        data = json_object(request)
        name = params.text(data.get("model"), "model", 200)
        pin = data.get("pin")
        unknown = next((key for key in data if key not in ("model", "pin")), None)
        if unknown is not None:
            raise params.refuse(str(unknown)[:64], "unknown_parameter", _("There is no parameter named %(param)s."))
        if pin is not None and not isinstance(pin, bool):
            raise params.refuse("pin", "invalid_type", _("%(param)s must be true or false."))
        try:
            target = await resolve(name)
            manager = get_manager()
            await manager.load_now(target.base, [target.adapter] if target.adapter else [], pin)
            return Response(await manager.status())
        except InferenceError as error:
            raise api_error(error, name=name) from None


class UnloadView(APIView):
    """Free the base model after what runs has ended."""

    permission_classes = [IsAuthenticated, IsOperator]

    async def post(self, request: ApiRequest) -> Response:
        try:
            freed = await get_manager().unload()
        except InferenceError as error:
            raise api_error(error) from None
        return Response({"freed_bytes": freed})
