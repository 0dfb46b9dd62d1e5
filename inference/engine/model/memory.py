"""Will it fit? Base, adapters, keys and values, and a reserve against what is free, before anything is loaded."""

from __future__ import annotations

import functools
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from inference.engine.config import parse_size
from inference.engine.errors import EngineError

GIB = 2**30
SMALL_CARD = 6.5 * GIB  # cards sold as 6 GB
SMALL_CARD_LIMIT = int(5.5 * GIB)  # leaves the desktop its share


@dataclass(frozen=True)
class MemoryPlan:
    slots: int
    context: int  # tokens a slot
    kv_bytes: int


def available_ram() -> int:
    """Bytes that this process can still take: free and reclaimable memory, within the control group's limit."""
    free = 0
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        if limit != "max":
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass  # no control group of the second version
    return free


def resident_set() -> int:
    """Bytes of memory that this process holds now."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * 4096


def resident_peak() -> int:
    """Bytes of memory that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@functools.cache
def ram_limit() -> int:
    """Bytes of memory that this process can have at most: the machine's, or its control group's."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return whole if limit == "max" else min(whole, int(limit))
    except (OSError, ValueError):
        return whole  # no control group of the second version


def gpu_limit(total: int, setting: str) -> int:
    """Bytes that the engine may use of a card: the setting, else 5.5 GiB on cards up to 6 GB, else 92 %."""
    if setting:
        return min(total, parse_size(setting))
    return SMALL_CARD_LIMIT if total <= SMALL_CARD else int(total * 0.92)


def readable(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def check_base(name: str, needed: dict[str, int], precision: str, free: int, reserve: int) -> None:
    """Refuse a base that cannot be loaded. `needed`: bytes of its weights by precision.

    Raises EngineError `out_of_memory` that names what would fit.
    """
    if needed[precision] + reserve <= free:
        return
    fitting = [p for p, size in needed.items() if size + reserve <= free]
    remedy = f"it would fit with {' or '.join(fitting)}" if fitting else "free memory or choose a smaller base model"
    raise EngineError(
        "out_of_memory",
        f"{name} needs {readable(needed[precision] + reserve)} in {precision}, {readable(free)} are free: {remedy}.",
        base=name, needed=readable(needed[precision] + reserve), free=readable(free), precision=precision,
        fits=fitting,
    )  # fmt: skip


def plan_kv(
    per_token: int, context: int, max_batch: int, free: int, fixed: int, reserve: int, floor: int = 256
) -> MemoryPlan:
    """Slots for keys and values out of what is left.

    `fixed`: bytes set (0: what is free less the reserve). Fewer slots first, then a shorter context, not under `floor`
    tokens. One slot beyond the plan is the prober's. Raises EngineError `out_of_memory`.
    """
    budget = fixed or max(0, free - reserve)
    floor = min(floor, context)
    slots = min(max_batch, budget // (per_token * context) - 1) if per_token else max_batch
    if slots < 1:
        context = budget // (2 * per_token)
        slots = 1
    if context < floor:
        raise EngineError(
            "out_of_memory",
            f"Only {readable(budget)} are left for keys and values, that is {context} tokens; free memory, "
            "use a smaller precision or a smaller base model.",
            free=readable(budget), context=context,
        )  # fmt: skip
    return MemoryPlan(int(slots), int(context), int(slots + 1) * int(context) * per_token)
