"""What is asked of a fleet beside answers: how many tokens a prompt has, that adapters be loaded, that one go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.utils.translation import gettext_noop

from inference.backends.interface import Request
from inference.engine.errors import EngineError
from inference.engine.protocol import AdapterSpec, BaseSpec

from .asking import Asking
from .catalogue import Address
from .resources import Resources
from .wire import StatusError, Wire, invalid

logger = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds for a count, a first load, or the end of what uses an adapter
UNLOADING = 2.0
PAUSE = 0.1  # between looks at who uses an adapter


class Replies:
    """Belongs to one event loop."""

    def __init__(self, resources: Resources, asking: Asking) -> None:
        self.resources = resources
        self.asking = asking

    async def counted(self, request: Request) -> dict[str, Any]:
        """Raises EngineError, StatusError."""
        resources = self.resources
        place = await resources.catalogue.of(request.base)
        text, special = await resources.off(lambda: resources.prompts.text(request))
        if not isinstance(text, str):
            return {"tokens": len(text), "context_length": place.context or len(text)}
        body = {"model": place.served, "prompt": text, "add_special_tokens": special}
        try:
            said = await resources.wire.post_json(f"{place.address.url}/tokenize", body, PATIENCE)
            tokens = said.get("count") if isinstance(said, dict) else None
        except StatusError as error:
            if error.status.code not in (404, 405):
                raise self.asking.refused(error.status, replace(request, adapter=None), place) from error
            # A router that does not pass it on: the prompt is read, and one token written.
            body |= {"max_tokens": 1, "temperature": 0}
            try:
                said = await resources.wire.post_json(f"{place.address.url}/v1/completions", body, PATIENCE)
            except StatusError as refused:
                raise self.asking.refused(refused.status, replace(request, adapter=None), place) from refused
            usage = said.get("usage") if isinstance(said, dict) else None
            tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if type(tokens) is not int or not 0 <= tokens < 2**31:
            raise invalid(gettext_noop("it is not a number of tokens"))
        return {"tokens": tokens, "context_length": place.context or tokens}

    async def loaded(self, base: BaseSpec, adapters: list[AdapterSpec], pin: bool | None) -> None:
        """Have a replica load the adapters, by asking each for one token. Raises EngineError."""
        if pin is not None:
            raise EngineError(
                "fleet_cannot",
                "A fleet keeps its bases loaded.",
                "pin",
                what=gettext_noop("keeping a base model loaded"),
            )
        place = await self.resources.catalogue.of(base)
        for adapter in adapters:
            await self.resources.off(lambda adapter=adapter: self.asking.publish(adapter, place))  # type: ignore[misc]
            body = {"model": adapter["digest"], "prompt": " ", "max_tokens": 1, "temperature": 0}
            try:
                await self.resources.wire.post(f"{place.address.url}/v1/completions", body, PATIENCE)
            except StatusError as error:
                request = Request("", base, adapter, prompt=" ")
                raise self.asking.refused(error.status, request, place) from error

    async def evicted(self, digest: str, used: Callable[[], bool]) -> dict[str, Any]:
        """Withdraw an adapter once nobody uses it, and have replicas forget it; unless it is activated again meanwhile.

        A folder is never taken from under a request: a replica that has to load it again then ends as a whole (in vLLM
        0.32 the exception of a load in the middle of a step is the engine's death). What is still in use after PATIENCE
        stays, and `sweeping.py` comes by.
        """
        shelf = self.resources.shelf
        state = shelf.state(digest)
        until = time.monotonic() + PATIENCE
        while await self.resources.off(used):
            if time.monotonic() > until:
                logger.info("fleet: %s is still in use; it stays published until that has ended", digest)
                return {"freed_bytes": 0}
            await asyncio.sleep(PAUSE)
        if state is not None and await self.resources.off(lambda: shelf.withdraw(digest, state, used)):
            await forget(digest, self.resources.options.addresses, self.resources.wire)
        return {"freed_bytes": 0}


async def forget(digest: str, addresses: tuple[Address, ...], wire: Wire) -> None:
    """Ask each address to unload an adapter. One that does not answer finds no folder of it any more."""

    async def ask(address: Address) -> None:
        try:
            await wire.post(f"{address.url}/v1/unload_lora_adapter", {"lora_name": digest}, UNLOADING)
        except (EngineError, StatusError) as error:  # not loaded there, a router, or away
            logger.debug("fleet: %s did not unload %s: %s", address.url, digest, error)

    await asyncio.gather(*map(ask, addresses))
