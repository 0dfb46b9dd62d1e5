"""Asking the manager itself, below the gateway, and hearing the whole of what it says."""

from __future__ import annotations

from inference.backends.interface import Request
from inference.errors import InferenceError
from inference.manager import ModelManager, PartialAnswer, WholeAnswer


async def run(manager: ModelManager, request: Request) -> WholeAnswer:
    """The whole answer. Raises InferenceError; cancelling the task that awaits it cancels the request."""
    gathering = PartialAnswer()
    async with await manager.generate(request) as stream:
        async for event in stream:
            if event["type"] == "error":
                raise InferenceError.from_event(event)
            if answer := gathering.add(event):
                return answer
    raise AssertionError("a stream without an end")


async def evict(manager: ModelManager, digest: str) -> int:
    """Drop an adapter, and wait until that has happened. Returns the bytes freed."""
    data = await manager._reply(lambda request_id, sink: manager.backend.evict(request_id, digest, sink))
    return int(data["freed_bytes"])
