"""Between the running side and the registry: proofs are recorded, released adapters leave the engine."""

# Events are read by key whatever they are, and the engine here is the local one.
# mypy: disable-error-code="attr-defined, arg-type"

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from channels.db import database_sync_to_async

from adapters import hooks
from adapters.models import LoraAdapter, Status
from inference.errors import InferenceError
from inference.gateway.targets import of_adapter
from inference.manager import ModelManager, Request

from .whole import run

pytestmark = pytest.mark.django_db(transaction=True)


def ask(adapter: LoraAdapter, prompt: str = "ahoy") -> Request:
    target = of_adapter(adapter)
    return Request(user="u", base=target.base, adapter=target.adapter, prompt=prompt)


def held(manager: ModelManager) -> list[str]:
    return [item["name"] for item in (manager.backend.last_status or {}).get("adapters", ())]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def recorded(adapter: LoraAdapter, field: str) -> Any:
    async with asyncio.timeout(10):
        while True:
            await adapter.arefresh_from_db()
            if getattr(adapter, field):
                return getattr(adapter, field)
            await asyncio.sleep(0.01)


async def test_proof_is_recorded(registry: SimpleNamespace, manager: ModelManager) -> None:
    await run(manager, ask(registry.pirate))
    assert await recorded(registry.pirate, "effect_kl") == 0.5
    assert registry.pirate.status == Status.ACTIVE


async def test_failed_proof_fails_the_adapter(registry: SimpleNamespace, manager: ModelManager) -> None:
    registry.pirate.name = "dud"
    await registry.pirate.asave()
    with pytest.raises(InferenceError) as caught:
        await run(manager, ask(registry.pirate))
    assert caught.value.code == "no_effect"
    assert await recorded(registry.pirate, "failure_code") == "no_effect"
    assert registry.pirate.status == Status.FAILED
    await until(lambda: manager.backend.last_status and not held(manager))


async def test_released_adapter_leaves_the_engine(registry: SimpleNamespace, manager: ModelManager) -> None:
    await run(manager, ask(registry.pirate))
    await until(lambda: held(manager) == ["pirate"])
    hooks.released(registry.pirate.digest, "deactivated")
    await until(lambda: held(manager) == [])
    os.kill(manager.backend.snapshot()["pid"], signal.SIGKILL)
    await until(lambda: manager.backend.snapshot()["restarts"] == 1 and manager.backend.last_status)
    assert held(manager) == []


async def test_deletion_waits_for_what_runs(registry: SimpleNamespace, manager: ModelManager) -> None:
    async with await manager.generate(ask(registry.pirate, "hang")) as stream:
        await until(lambda: held(manager) == ["pirate"])
        assert not await database_sync_to_async(hooks.drain)(registry.pirate.digest, 0.05)
        stream.cancel()
        assert await database_sync_to_async(hooks.drain)(registry.pirate.digest, 10.0)
    await until(lambda: held(manager) == [])
