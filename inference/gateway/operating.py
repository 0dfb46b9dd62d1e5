"""What is asked of the engine beside answers. Whatever fails is an ApiError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapters.models import LoraAdapter
from inference.backends.interface import Loading
from inference.errors import InferenceError, api_error, sentence
from inference.manager import get_manager, reply_of
from inference.params import served_context
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
        tokens, context = await manager.count_tokens(base, question.messages, question.prompt, question.target.adapter)
    except InferenceError as error:
        raise api_error(error, raw_prompt=question.prompt is not None, name=question.target.name) from None
    return tokens, served_context(context)


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
    found = await get_manager().status()
    adapters = (found.get("engine") or {}).get("adapters", [])
    names: dict[str, list[str]] = {}
    rows = LoraAdapter.objects.filter(digest__in={one["digest"] for one in adapters}).order_by("name")
    async for digest, name in rows.values_list("digest", "name"):
        names.setdefault(digest, []).append(name)
    for one in adapters:  # the engine knows the name that an adapter had when it was loaded
        known = names.get(one["digest"], [])
        if known and one["name"] not in known:
            one["name"] = known[0]
    for address in (found.get("engine") or {}).get("fleet", ()):
        address["message"] = sentence(address["error"]) if address["error"] else ""
    return found


def wait_booked(timeout: float) -> None:
    """Block until the use of everything that has ended is in the database, at most `timeout` seconds."""
    ledger.flush(timeout)
