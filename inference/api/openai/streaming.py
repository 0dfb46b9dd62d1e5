"""Server-sent events: every piece goes out the moment it exists; comments keep the line alive while nothing does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from common.api import ApiError
from inference.engine.protocol import Usage
from inference.gateway.asking import Asking, Loading, Queued

from .answers import Envelope, total_usage
from .bodies import OpenAIRequest
from .errors import error_object

SILENCE = 10.0  # seconds without a word until a comment says that we are still there
DONE = b"data: [DONE]\n\n"


def data(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def comment(text: str) -> bytes:
    return f": {' '.join(text.split())}\n\n".encode()


def remark(event: Queued | Loading) -> bytes:
    """What a waiting client may show: where it stands in the queue, or how far loading has come."""
    expected = f" expected={event['expected']}" if "expected" in event else ""
    if event["type"] == "queued":
        return comment(f"queued position={event['position']} reason={event['reason']}{expected}")
    return comment(f"loading stage={event['stage']} progress={event['progress']:.2f}{expected}")


async def sse(asking: Asking, asked: OpenAIRequest, envelope: Envelope) -> AsyncIterator[bytes]:
    """The body of a streamed answer. Closing the iterator cancels the answer."""
    usages, opened = dict[int, Usage](), set[int]()
    usage: dict[str, Any] = {"usage": None} if asked.include_usage else {}
    try:
        async with asking:
            while True:
                try:
                    async with asyncio.timeout(SILENCE):
                        choice, event = await anext(asking)
                except TimeoutError:
                    yield comment("waiting")
                    continue
                except StopAsyncIteration:
                    break
                if event["type"] in ("queued", "loading"):
                    yield remark(event)
                    continue
                if choice not in opened:
                    opened.add(choice)
                    opening = envelope.shape.opening(choice)
                    if opening is not None:
                        yield data(envelope.chunk([opening], **usage))
                if event["type"] == "prompt":
                    told = envelope.shape.prompt(choice, event)
                    if told is not None:
                        yield data(envelope.chunk([told], **usage))
                elif event["type"] == "token":
                    yield data(envelope.chunk([envelope.shape.piece(choice, event)], **usage))
                elif event["type"] == "done":
                    usages[choice] = event["usage"]
                    closing = envelope.shape.closing(choice, event)
                    yield data(envelope.chunk([closing], **usage, timings=event["timings"]))
        if asked.include_usage:
            yield data(envelope.chunk([], usage=total_usage(usages, asked.n)))
    except ApiError as error:
        yield data(error_object(error))
    yield DONE
