"""Daphne writes as fast as an application sends; this makes a streamed answer wait for its reader.

Twisted tells a registered producer when the connection's buffer is full and when it has drained. While it is full the
application's `send` waits, so a slow reader costs a bounded buffer; one that reads nothing for `PATIENCE` seconds
is cut off, which cancels the application like any other disconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from weakref import WeakKeyDictionary

from daphne.http_protocol import WebRequest
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

PATIENCE = 30.0


@implementer(IPushProducer)
class PausingProducer:
    """Of one response."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()

    def pauseProducing(self) -> None:  # noqa: N802  (Twisted's names)
        self.flowing.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        self.flowing.set()

    def stopProducing(self) -> None:  # noqa: N802
        self.flowing.set()


class Backpressure:
    """Of the responses that one server streams."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._brakes: WeakKeyDictionary[WebRequest, PausingProducer] = WeakKeyDictionary()

    def before(self, protocol: Any, message: dict[str, Any]) -> None:
        """A message is about to be written: the last one lets go of the connection."""
        ends = message["type"] == "http.response.body" and not message.get("more_body")
        if ends and self._brakes.pop(protocol, None) is not None and protocol.channel is not None:
            protocol.unregisterProducer()

    async def after(self, protocol: Any, message: dict[str, Any]) -> None:
        """A message was written: wait while the connection's buffer is full."""
        streams = isinstance(protocol, WebRequest) and message.get("more_body") and protocol.channel is not None
        if message["type"] != "http.response.body" or not streams:
            return
        brake = self._brakes.get(protocol)
        if brake is None:
            brake = self._brakes[protocol] = PausingProducer()
            protocol.registerProducer(brake, True)
        if brake.flowing.is_set():
            return
        try:
            async with asyncio.timeout(self.patience):
                await brake.flowing.wait()
        except TimeoutError:
            with contextlib.suppress(AttributeError):  # it has gone meanwhile
                protocol.channel.forceAbortClient()
