"""What all that is asked of a fleet shares: settings, files, threads, and the connections of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from inference import contexts

from .catalogue import Address, Catalogue
from .prompts import Prompts
from .shelf import Shelf
from .wire import Wire

THREADS = 4  # that read files, render templates and ask the database
T = TypeVar("T")


@dataclass(frozen=True)
class FleetOptions:
    addresses: tuple[Address, ...]
    folder: Path  # where adapters are published
    key: str = ""
    silence: float = 120.0  # seconds without anything from an address after which an answer is given up
    limit: int = 304  # requests in flight
    user_limit: int = 16  # of one user
    raw_control_tokens: bool = False


class Resources:
    """`wire` and `catalogue` belong to the event loop of whoever asks for them first."""

    def __init__(self, options: FleetOptions) -> None:
        self.options = options
        self.shelf = Shelf(options.folder)
        self.prompts = Prompts(options.raw_control_tokens)
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fleet-files")

    @cached_property
    def wire(self) -> Wire:
        return Wire(self.options.key, self.options.silence, self.options.limit + 16)

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.options.addresses, self.wire)

    async def off(self, call: Callable[[], T]) -> T:
        """What `call` returns, which may block."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, call)

    async def close(self) -> None:
        for address in self.options.addresses:
            contexts.forget(address.url)
        if "wire" in self.__dict__:
            await self.wire.close()
