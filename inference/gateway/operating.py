"""What is asked of the engine beside answers. Whatever fails is an ApiError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings

from inference.backends.interface import Loading
from inference.errors import InferenceError, api_error
from inference.manager import get_manager, reply_of
from inference.quota.ledger import ledger

from .asking import Question
from .targets import resolve


async def count(question: Question, on_start: Callable[[Loading], None] | None = None) -> tuple[int, int]:
    """(tokens of the prompt, tokens that the model takes). Loads no weights.

    Starts the engine where it does not run. The engine says nothing meanwhile, so `on_start` is called before.
    """
    manager, base = get_manager(), question.target.base
    if on_start is not None and not manager.ready:
        on_start({"type": "loading", "id": "", "stage": "starting", "progress": 0.0, "name": base["name"]})
    try:
        tokens, context = await manager.count_tokens(base, question.messages, question.prompt)
    except InferenceError as error:
        raise api_error(error, raw_prompt=question.prompt is not None, name=question.target.name) from None
    return tokens, min(context, settings.ENGINE_MAX_CONTEXT)


async def load(name: str, pin: bool | None) -> None:
    """Load the model named `name` and wait for the end, which a caller that leaves does not hinder.

    `pin` keeps its base until it is unloaded or unpinned; None leaves that as it is.
    """
    target = await resolve(name)
    adapters = [target.adapter] if target.adapter else []
    loading = await get_manager().load(target.base, adapters, pin)
    try:
        reply_of(await loading.final())
    except InferenceError as error:
        raise api_error(error, name=name) from None


async def unload() -> int:
    """Free the base after what runs has ended. Returns the bytes freed."""
    return await get_manager().unload()


async def status() -> dict[str, Any]:
    """`worker` {state, pid, device, restarts, in_flight} and `engine` (what it holds, or null). Starts nothing."""
    return await get_manager().status()


def wait_booked(timeout: float) -> None:
    """Block until the use of everything that has ended is in the database, at most `timeout` seconds."""
    ledger.flush(timeout)
