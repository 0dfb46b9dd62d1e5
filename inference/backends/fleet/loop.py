"""An event loop on a thread of its own: the fleet is asked from several loops and from plain threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any


class FleetLoop:
    """Started by the first call. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def begin(self, make: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run a coroutine there, at once or as soon as the loop has started. False after the end."""
        with self._lock:
            if self._ended:
                return False
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name="fleet-io", daemon=True)
                self._thread.start()
            loop = self._loop
        loop.call_soon_threadsafe(lambda: loop.create_task(make()))
        return True

    def tell(self, call: Callable[[], None]) -> None:
        """Have it called there. Takes no lock: a garbage collection in the middle of anything may tell."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(call)

    def end(self, last: Callable[[], Coroutine[Any, Any, None]], timeout: float) -> None:
        """Run `last`, then stop. Safe to repeat."""
        with self._lock:
            loop, thread, self._ended = self._loop, self._thread, True
        if loop is None or thread is None or not thread.is_alive():
            return

        async def finish() -> None:
            try:
                await asyncio.wait_for(last(), timeout)
            except TimeoutError:
                pass
            finally:
                loop.stop()

        loop.call_soon_threadsafe(lambda: loop.create_task(finish()))
        if thread is not threading.current_thread():
            thread.join(timeout + 1.0)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
