"""Server-sent events: every piece goes out the moment it exists; comments keep the line alive while nothing does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from inference.errors import InferenceError, api_error

from .answers import Envelope, Total
from .errors import error_object
from .reading import Asked
from .running import Run

SILENCE = 10.0  # seconds without a word until a comment says that we are still there
DONE = b"data: [DONE]\n\n"


def data(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def comment(text: str) -> bytes:
    return f": {' '.join(text.split())}\n\n".encode()


def remark(event: Mapping[str, Any]) -> bytes:
    """What a waiting client may show: where it stands in the queue, or how far loading has come."""
    expected = f" expected={event['expected']}" if "expected" in event else ""
    if event["type"] == "queued":
        return comment(f"queued position={event['position']} reason={event['reason']}{expected}")
    return comment(f"loading stage={event['stage']} progress={event['progress']:.2f}{expected}")


async def sse(run: Run, asked: Asked, envelope: Envelope, name: str) -> AsyncIterator[bytes]:
    """The body of a streamed answer. Closing the iterator cancels the answer."""
    total, opened, lengths = Total(), set[int](), dict[int, int]()
    usage: dict[str, Any] = {"usage": None} if asked.include_usage else {}
    try:
        while True:
            try:
                item = await run.next(SILENCE)
            except TimeoutError:
                yield comment("waiting")
                continue
            if item is None:
                break
            choice, event = item
            if event["type"] in ("queued", "loading"):
                yield remark(event)
                continue
            if choice not in opened:
                opened.add(choice)
                opening = envelope.shape.opening(choice)
                if opening is not None:
                    yield data(envelope.chunk([opening], **usage))
            before = lengths.get(choice, 0)
            if event["type"] == "token":
                lengths[choice] = before + len(event["text"])
                yield data(envelope.chunk([envelope.shape.piece(choice, event, before)], **usage))
            else:
                total.add(choice, event)
                closing = envelope.shape.closing(choice, event, before)
                yield data(envelope.chunk([closing], **usage, timings=event["timings"]))
        if asked.include_usage:
            yield data(envelope.chunk([], usage=total.usage(asked.n)))
        yield DONE
    except InferenceError as error:
        yield data(error_object(api_error(error, raw_prompt=asked.raw, name=name)))
        yield DONE
    finally:
        run.close()
