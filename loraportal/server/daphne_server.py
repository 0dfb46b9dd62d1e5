"""Daphne with an orderly end: streams are closed as going away, and the process is gone within ten seconds."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from django.conf import settings
from twisted.internet import defer, reactor

from common.request_ids import CAME_IN
from inference.manager import close_manager

from .backpressure import Backpressure
from .bodies import BoundedFactory, BoundedRequest

logger = logging.getLogger(__name__)

GOING_AWAY = 1001  # RFC 6455, 7.4.1
CLOSE_SECONDS = 3.0  # for websockets to end by themselves
LAST_SECONDS = 8.0  # then the process ends, whatever still hangs


class Stamping:
    """The queue of what an application is to receive, as the protocols use it."""

    def __init__(self, queue: asyncio.Queue[dict[str, Any]]) -> None:
        self.queue = queue

    def put_nowait(self, message: dict[str, Any]) -> None:
        self.queue.put_nowait(message | {CAME_IN: time.monotonic()})


class PortalServer(Server):
    """Serves the ASGI application until SIGTERM or SIGINT."""

    def __init__(self, application: Any, host: str, port: int, on_listen: Callable[[], None]) -> None:
        super().__init__(
            application,
            endpoints=build_endpoint_description_strings(host, port),
            server_name="",
            websocket_max_message_size=settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
            websocket_max_frame_size=settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
        )
        self.on_listen = on_listen
        self.brakes = Backpressure()

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        reactor.callWhenRunning(self.on_listen)

    @property
    def http_factory(self) -> BoundedFactory:
        return self._http_factory

    @http_factory.setter
    def http_factory(self, _daphnes_own: Any) -> None:
        self._http_factory = BoundedFactory(self)

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Tells the application when what comes was read: under load it is its turn only later."""
        if isinstance(protocol, BoundedRequest):
            scope[CAME_IN] = protocol.came_in
        queue = super().create_application(protocol, scope)
        return queue and Stamping(queue)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        self.brakes.before(protocol, message)
        await super().handle_reply(protocol, message)
        await self.brakes.after(protocol, message)

    def kill_all_applications(self) -> Any:
        """Called before the reactor stops, which waits for what is returned."""
        watchdog = threading.Timer(LAST_SECONDS, leave)
        watchdog.daemon = True
        watchdog.start()
        return defer.Deferred.fromFuture(asyncio.ensure_future(self.drain()))

    async def drain(self) -> None:
        """Close the websockets (their consumers clean up), then cancel what is still running."""
        for protocol in list(self.connections):
            if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(code=GOING_AWAY)  # `serverClose` takes no code of the RFC
        running = [details.get("application_instance") for details in self.connections.values()]
        sockets = [task for task in running if task is not None and not task.done()]
        if not sockets:
            return
        # Answers over HTTP end with `shutting_down` instead of being cut in the middle.
        asyncio.get_running_loop().run_in_executor(None, close_manager)
        _done, pending = await asyncio.wait(sockets, timeout=CLOSE_SECONDS)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=CLOSE_SECONDS)


def leave() -> None:
    logger.warning("something did not end in %d s: leaving without it", LAST_SECONDS)
    os._exit(1)
