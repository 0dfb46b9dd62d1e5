"""One answer of a fleet: from a request to the events that its sink hears."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.utils.translation import gettext_noop
from pydantic import ValidationError

from inference.backends.interface import Request, cancelled
from inference.engine.errors import EngineError
from inference.engine.params import SamplingParams
from inference.engine.protocol import AdapterSpec

from .answers import Answering
from .catalogue import BasePlace
from .flights import Flight, Flights
from .questions import body_of
from .reading import echoed, longest, told, whole_body
from .refusals import in_stream, refused
from .resources import Resources
from .shelf import published
from .sse import data_of
from .wire import Refusal, StatusError, invalid

logger = logging.getLogger(__name__)

ENDING = 1.0  # seconds
END = "[DONE]"


class Asking:
    """Belongs to one event loop. `tokens`: of all answers."""

    def __init__(self, resources: Resources, flights: Flights) -> None:
        self.resources = resources
        self.flights = flights
        self.tokens = 0

    async def answer(self, flight: Flight, request: Request) -> None:
        """The events of one answer; the last of them is told in every case, unless EngineError is raised."""
        adapter = request.adapter
        digest = adapter["digest"] if adapter else request.base["key"]
        answering: Answering | None = None
        try:
            place = await self.resources.catalogue.of(request.base)
            made, body = await self.resources.off(lambda: self._prepared(flight, request, place, digest))
            answering = made
            headers = {"X-Request-Id": flight.id, "Accept": "text/event-stream"}
            if not request.reading.streams:
                await self._read(flight, request, place, made, body, headers)
                return
            if request.reading.echo:
                self.flights.tell(flight, echoed(flight.id, request, made.vocabulary))
            async with self.resources.wire.stream(f"{place.address.url}/v1/completions", body, headers) as pieces:
                chunks = data_of(pieces)
                await self._told(flight, made, chunks)
                self.flights.tell(flight, made.done())
                await ended(chunks)
        except asyncio.CancelledError:
            if self.flights.closed:
                raise
            self.flights.tell(flight, answering.done("cancelled") if answering else cancelled(flight.id, digest))
        except StatusError as error:
            raise self.refused(error.status, request, place) from error
        finally:
            self.tokens += answering.usage["completion_tokens"] if answering else 0

    async def _read(
        self, flight: Flight, request: Request, place: BasePlace, answering: Answering, body: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> None:  # fmt: skip
        """The events of a prompt that is told of, which vLLM does in whole answers only."""
        first, reading, resources = 0, request.reading, self.resources
        if (continuation := reading.continuation) is not None:
            tokens, first = await resources.off(lambda: resources.prompts.pair(request, continuation))
            body = {**body, "prompt": tokens, "add_special_tokens": False}
        url = f"{place.address.url}/v1/completions"
        limit = longest(reading, place.context or request.chars)
        said = await resources.wire.post_whole(url, whole_body(body, reading), headers, limit)
        event = answering.take_object(said)
        if answering.error is not None:
            raise StatusError(in_stream(answering.error))
        parts = await resources.off(lambda: told(flight.id, said, request, answering.vocabulary, first))
        for part in parts:
            self.flights.tell(flight, part)
        if not answering.reason:
            raise invalid(gettext_noop("it ends without a reason"))
        if reading.answer and event is not None:
            self.flights.tell(flight, event)
        if not reading.answer:
            answering.leave_out()
        self.flights.tell(flight, answering.done())

    def refused(self, status: Refusal, request: Request, place: BasePlace) -> EngineError:
        logger.warning("fleet: %s refuses a request: %s %s", place.address.url, status.code, status.message)
        if status.code == 404:
            self.resources.catalogue.forget(place.address.url)
        return refused(status, request, place)

    def _prepared(
        self, flight: Flight, request: Request, place: BasePlace, digest: str
    ) -> tuple[Answering, Mapping[str, Any]]:
        """All that reads files or renders a template, in one go on a thread. Raises EngineError."""
        prompts, adapter, params = self.resources.prompts, request.adapter, request.params
        text, special = prompts.text(request)
        ends: frozenset[int] = frozenset()
        if adapter is not None:
            params = with_defaults(params, prompts.prompting(adapter).defaults, adapter["name"])
            ends = prompts.ends(request.base, adapter)
            self.publish(adapter, place)
        asks = params.logprobs is not None or request.reading.logprobs is not None or request.tokens is not None
        vocabulary = prompts.vocabulary(request.base) if asks else None
        model = adapter["digest"] if adapter else place.served
        body = body_of(model, text, special, params, place, ends)
        return Answering(flight.id, model, digest, body["max_tokens"], params.logprobs, vocabulary), body

    def publish(self, adapter: AdapterSpec, place: BasePlace) -> None:
        """What an installation before this one activated, or somebody has swept away, is published when it is asked."""
        shelf = self.resources.shelf
        if not shelf.has(adapter["digest"], place.root):
            published(shelf, adapter["digest"], Path(adapter["path"]), adapter["name"], place.root)

    async def _told(self, flight: Flight, answering: Answering, chunks: AsyncIterator[str]) -> None:
        """Hand out what comes. Raises EngineError where the answer is not whole, StatusError where it is a refusal."""
        while True:
            try:  # (comments that keep a connection alive do not count)
                async with asyncio.timeout(self.resources.options.silence):
                    data = await anext(chunks, None)
            except TimeoutError:
                raise EngineError("engine_timeout", "The fleet did not answer in time.") from None
            except EngineError as error:
                if answering.reason and error.code == "fleet_interrupted":
                    return  # it was whole before the connection broke
                raise
            if data == END or (data is None and answering.reason):
                break
            if data is None:
                raise EngineError("fleet_interrupted", "The fleet's answer broke off.")
            event = answering.take(data)
            if answering.error is not None:
                raise StatusError(in_stream(answering.error))
            if event is not None and not self.flights.tell(flight, event):
                raise asyncio.CancelledError
        if not answering.reason:
            raise invalid(gettext_noop("it ends without a reason"))


async def ended(chunks: AsyncIterator[str]) -> None:
    """Read what is left of a whole answer, which is its end alone: only then is its connection used again."""
    with suppress(TimeoutError, EngineError):
        async with asyncio.timeout(ENDING):
            await anext(chunks, None)


def with_defaults(params: SamplingParams, defaults: Mapping[str, Any], name: str) -> SamplingParams:
    """What an adapter's training left holds where a request names nothing. Raises EngineError."""
    if not defaults:
        return params
    try:
        return SamplingParams.model_validate({**defaults, **params.given()})
    except ValidationError as error:
        message = f"The defaults of generation of {name} cannot be used."
        raise EngineError("adapter_incompatible", message, name=name) from error
