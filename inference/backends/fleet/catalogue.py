"""Which address serves which base model, by what each says at `/v1/models`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.utils.translation import gettext_noop

from inference import contexts
from inference.engine.errors import EngineError
from inference.engine.protocol import BaseSpec

from .wire import Refusal, StatusError, Wire, invalid

PATIENCE = 5.0  # seconds that an address may take to say what it serves
FRESH = 30.0  # seconds in which an address is not asked again
MOST_MODELS = 10_000
LONGEST_NAME = 500


@dataclass(frozen=True)
class Address:
    """`base`: name of the base model that the operator says is there; "" where the address itself is to say."""

    url: str
    base: str = ""


@dataclass(frozen=True)
class BasePlace:
    """A base model at an address. `served`: how requests name it; `root`: the model argument of `vllm serve`, which an
    adapter's config has to name; `context`: tokens of prompt and answer together."""

    address: Address
    served: str
    root: str
    context: int
    adapters: tuple[str, ...] = ()

    def serves(self, name: str) -> bool:
        """Whether this is the base model that the registry calls `name`."""
        if self.address.base:
            return self.address.base == name
        wanted = name.casefold()
        return wanted in {self.served.casefold(), self.root.rstrip("/").rpartition("/")[2].casefold()}


class Catalogue:
    """Belongs to one event loop."""

    def __init__(self, addresses: Sequence[Address], wire: Wire) -> None:
        self.addresses = addresses
        self.wire = wire
        self.places: dict[str, BasePlace] = {}  # by url: what it said last
        self._asked: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[EngineError | None]] = {}

    async def of(self, base: BaseSpec) -> BasePlace:
        """Raises EngineError `fleet_unavailable` where an address that may serve it does not answer, `base_missing`."""
        known = self._known(base["name"])
        if known is not None:
            return known
        likely = [address for address in self.addresses if address.base in ("", base["name"])]
        troubles = [trouble for trouble in await asyncio.gather(*map(self._try, likely)) if trouble is not None]
        known = self._known(base["name"])
        if known is not None:
            return known
        if troubles:
            raise troubles[0]
        raise EngineError("base_missing", "No address of the fleet serves this base model.", name=base["name"])

    def _known(self, name: str) -> BasePlace | None:
        return next((place for place in self.places.values() if place.serves(name)), None)

    def forget(self, url: str) -> None:
        """What it said has turned out to be no longer true."""
        self.places.pop(url, None)
        self._asked.pop(url, None)

    async def _try(self, address: Address) -> EngineError | None:
        """Requests that come while an address is asked wait for that answer, also where it is none."""
        now, url = time.monotonic(), address.url
        if url in self.places and now - self._asked.get(url, 0.0) < FRESH:
            return None
        if url not in self._asking:
            self._asking[url] = asyncio.create_task(self._trouble(address))
            self._asking[url].add_done_callback(lambda task: self._asking.pop(url))
        return await asyncio.shield(self._asking[url])  # whoever gives up does not end it for the others

    async def _trouble(self, address: Address) -> EngineError | None:
        try:
            await self.ask(address)
        except EngineError as error:
            return error
        return None

    async def ask(self, address: Address, patience: float = PATIENCE) -> BasePlace:
        """What it serves now. Raises EngineError."""
        try:
            said = await self.wire.get_json(f"{address.url}/v1/models", patience)
        except StatusError as error:
            if error.status.code in (400, 404, 405):
                raise invalid(gettext_noop("it does not come from vLLM")) from error
            raise refusal(error.status) from error
        place = read(said, address)
        self.places[address.url] = place
        contexts.note(address.url, place.serves, place.context)
        self._asked[address.url] = time.monotonic()
        return place


def refusal(status: Refusal) -> EngineError:
    """A refusal that has nothing to do with what was asked."""
    if status.code in (401, 403):
        return EngineError("fleet_denied", "The fleet refuses the portal's key.")
    if status.code in (429, 503):
        found = EngineError("queue_full" if status.code == 429 else "fleet_unavailable", "The fleet takes no more.")
        found.detail |= {"retry_after": status.retry_after} if status.retry_after else {}
        return found
    if status.code in (502, 504):
        return EngineError("fleet_unavailable", "No replica of the fleet answers.")
    return EngineError("engine_error", f"The fleet answered with status {status.code}.", reason=status.message)


def read(said: Any, address: Address) -> BasePlace:
    """The base and the adapters in a list of models. Raises EngineError `fleet_answer_invalid`."""
    models = said.get("data") if isinstance(said, dict) else None
    if not isinstance(models, list) or not models or len(models) > MOST_MODELS:
        raise invalid(gettext_noop("it is not a list of models"))
    base: BasePlace | None = None
    adapters = []
    for model in models:
        name = model.get("id") if isinstance(model, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
            raise invalid(gettext_noop("a model has no name"))
        if model.get("parent"):
            adapters.append(name)
        elif base is None:
            root, context = model.get("root"), model.get("max_model_len")
            base = BasePlace(
                address,
                name,
                root if isinstance(root, str) and root else name,
                context if type(context) is int and context > 0 else 0,
            )
    if base is None:
        raise invalid(gettext_noop("it names no base model"))
    return replace(base, adapters=tuple(adapters))
