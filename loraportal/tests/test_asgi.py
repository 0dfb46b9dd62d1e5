from __future__ import annotations

import asyncio
import threading
from typing import Any

from channels.db import database_sync_to_async

from loraportal import asgi


async def test_a_websocket_that_waits_for_the_database_delays_no_other() -> None:
    free = threading.Event()
    work = {"waits": lambda: free.wait(30), "frees": free.set}
    answers: dict[str, Any] = {}

    async def connection(scope: Any, receive: Any, send: Any) -> None:
        answers[scope["path"]] = await database_sync_to_async(work[scope["path"]])()

    answer = asgi.on_lent_threads(connection)
    first = asyncio.create_task(answer({"path": "waits"}, None, None))
    await asyncio.sleep(0)
    await answer({"path": "frees"}, None, None)
    await first
    assert answers == {"waits": True, "frees": None}, "it was freed, and did not give up"
