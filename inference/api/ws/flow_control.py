"""How far the server may run ahead of a websocket client: the server in front of it never pushes back by itself."""

from __future__ import annotations

import asyncio

WINDOW = 64  # pieces that a client which acknowledges may be behind
FREE_CHARS = 512 * 1024  # what a client that never acknowledges gets in one answer before it has to
PATIENCE = 30.0  # seconds that an answer waits for an acknowledgement


class SlowReaderError(Exception):
    """The client was too far behind for too long."""


class Credits:
    """Of one answer (a generation's id and target)."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.acked: int | None = None
        self.sent = -1
        self.chars = 0
        self.lifted = False
        self._changed = asyncio.Event()

    def ack(self, index: int) -> None:
        """The client has dealt with the pieces up to `index`. Pieces that were never sent do not count."""
        self.acked = max(min(index, self.sent), -1 if self.acked is None else self.acked)
        self._changed.set()

    def lift(self) -> None:
        """Stop counting: the answer is being stopped and its little rest may go."""
        self.lifted = True
        self._changed.set()

    @property
    def spent(self) -> bool:
        if self.lifted:
            return False
        if self.acked is None:
            return self.chars >= FREE_CHARS
        return self.sent - self.acked >= WINDOW

    async def take(self, index: int, chars: int) -> None:
        """Wait until piece `index` may go. Raises SlowReaderError after `patience` seconds."""
        while self.spent:
            self._changed.clear()
            try:
                async with asyncio.timeout(self.patience):
                    await self._changed.wait()
            except TimeoutError:
                raise SlowReaderError from None
        self.sent = index
        self.chars += chars
