"""How each address is doing, by what it says itself."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import TypedDict

from inference.engine.errors import EngineError

from .catalogue import Address, Catalogue
from .wire import StatusError, Wire, parsed

logger = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds that an address may take to say one thing
MOST_LINES = 2000  # of its figures that are looked at
MOST_ADAPTERS = 200  # that are named
FIGURES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache",
}

LABELS = {  # figures that are labels, in lines that may be long
    "slots": re.compile(r'^vllm:lora_requests_info\{(?:[^\n]*,)?max_lora="(\d{1,6})"', re.MULTILINE),
    "cache_bytes": re.compile(r'^vllm:cache_config_info\{(?:[^\n]*,)?kv_cache_memory_bytes="(\d{1,16})"', re.MULTILINE),
}


class AddressState(TypedDict):
    """`error`: code of `inference.errors.KINDS`, "" where it answers. Figures that it does not have, as a router, are
    None."""

    address: str
    reachable: bool
    error: str
    version: str
    base: str  # as requests name it
    root: str  # as adapters have to name it
    context: int
    adapters: list[str]  # names that it reports, at most MOST_ADAPTERS
    adapter_count: int
    running: int | None
    waiting: int | None
    kv_cache: float | None  # 0 to 1
    slots: int | None  # adapters that a batch holds at most (--max-loras)
    slots_full: bool  # see `wrong_when_full`
    checked: float  # Unix time


async def look(addresses: Sequence[Address], catalogue: Catalogue, wire: Wire) -> list[AddressState]:
    """All of them at once. Never raises what an address does."""
    return list(await asyncio.gather(*(state_of(address, catalogue, wire) for address in addresses)))


async def state_of(address: Address, catalogue: Catalogue, wire: Wire) -> AddressState:
    found: AddressState = {
        "address": address.url, "reachable": False, "error": "", "version": "", "base": address.base, "root": "",
        "context": 0, "adapters": [], "adapter_count": 0, "running": None, "waiting": None, "kv_cache": None,
        "slots": None, "slots_full": False, "checked": time.time(),
    }  # fmt: skip
    try:
        place = await catalogue.ask(address, PATIENCE)
    except EngineError as error:
        return {**found, "error": error.code}
    said, figures = await asyncio.gather(version(address, wire), figures_of(address, wire))
    return {
        **found,
        "reachable": True,
        "version": said,
        "base": place.served,
        "root": place.root,
        "context": place.context,
        "adapters": list(place.adapters[:MOST_ADAPTERS]),
        "adapter_count": len(place.adapters),
        "running": whole(figures.get("running")),
        "waiting": whole(figures.get("waiting")),
        "kv_cache": figures.get("kv_cache"),
        "slots": whole(figures.get("slots")),
        "slots_full": wrong_when_full(said, len(place.adapters), figures),
    }


async def version(address: Address, wire: Wire) -> str:
    """ "" where it does not say, as a router."""
    try:
        said = parsed(await wire.get(f"{address.url}/version", PATIENCE))
    except (StatusError, EngineError):
        return ""
    found = said.get("version") if isinstance(said, dict) else None
    return found[:50] if isinstance(found, str) and found.isprintable() else ""


async def figures_of(address: Address, wire: Wire) -> dict[str, float]:
    """{} where it has none that can be read."""
    try:
        data = await wire.get(f"{address.url}/metrics", PATIENCE)
    except (StatusError, EngineError):
        return {}
    return figures(data.decode("utf-8", "replace"))


def wrong_when_full(version: str, adapters: int, said: Mapping[str, float]) -> bool:
    """Whether this looks like a CPU build of vLLM 0.32 with an adapter in each of its slots: in a batch with adapters'
    requests the rows of a base model's own request are then computed with the last one (docs/scale.md).

    It does not say what it runs on; but its cache has a size in bytes (VLLM_CPU_KVCACHE_SPACE), which elsewhere only
    somebody's own setting gives it.
    """
    return version.startswith("0.32.") and "cache_bytes" in said and 0 < said.get("slots", 0) <= adapters


def figures(text: str) -> dict[str, float]:
    """Queue, cache and slots from the exposition: of several engines in one replica the sum, of their caches the
    fullest."""
    lines = [line for line in text.splitlines() if line.startswith(tuple(FIGURES)) and len(line) < 1000]
    found = {name: float(said.group(1)) for name, line in LABELS.items() if (said := line.search(text)) is not None}
    try:
        for family in text_string_to_metric_families("\n".join(lines[:MOST_LINES]) + "\n"):
            name = FIGURES.get(family.name)
            for sample in family.samples if name else ():
                if name is None or not math.isfinite(sample.value) or sample.value < 0:
                    continue
                before = found.get(name, 0.0)
                found[name] = max(before, sample.value) if name == "kv_cache" else before + sample.value
    except (ValueError, KeyError, IndexError):
        logger.debug("fleet: figures that cannot be read")
        return {}
    return found


def whole(value: float | None) -> int | None:
    return None if value is None else int(min(value, 2**53))
