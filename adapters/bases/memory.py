"""How much memory this machine has for a model; without torch, which a web process never loads."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

import launching
from adapters.models import BaseModel

from .registry import NF4_BYTES

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup/memory.max")
CGROUP_USED = Path("/sys/fs/cgroup/memory.current")


@lru_cache(maxsize=1)
def host_bytes() -> int:
    """Main memory that this machine or container has altogether, 0 where that is not known."""
    try:
        line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemTotal:"))
        total = int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
    try:
        return min(total, int(CGROUP.read_text()))
    except (OSError, ValueError):  # no limit is written as "max"
        return total


@lru_cache(maxsize=1)
def gpu_bytes() -> int:
    """Memory of the largest NVIDIA card, 0 where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        words = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        done = launching.run(words, launching.without_secrets(), timeout=5)
        return max((int(line) for line in done.output.split()), default=0) * 2**20
    except (launching.TookTooLongError, OSError, ValueError):
        return 0


def fits(base: BaseModel) -> dict[str, bool | None]:
    """precision -> whether the estimate fits into the card, or into main memory where there is no card.

    None where either number is not known. The engine measures again before it loads.
    """
    place = gpu_bytes() or host_bytes()
    needs = {"fp32": base.memory_fp32, "bf16": base.memory_bf16, "nf4": base.memory_nf4}
    return {name: need <= place if need and place else None for name, need in needs.items()}


def free_bytes() -> int:
    """Main memory that a program could still take, within the control group's limit; 0 where that is not known."""
    try:
        line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        free = int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
    try:
        return max(0, min(free, int(CGROUP.read_text()) - int(CGROUP_USED.read_text())))
    except (OSError, ValueError):
        return free


def needed_by_processor(base: BaseModel) -> dict[str, int]:
    """precision -> bytes of main memory that a worker takes with this base in it, whose weights the processor computes
    with: what is not quantised is in fp32 there. {} where the base's size is not known."""
    if not base.parameters or not base.memory_fp32:
        return {}
    worker = base.memory_fp32 - 4 * base.parameters
    matrices = round((base.memory_bf16 - base.memory_nf4) / (2 - NF4_BYTES))  # that are quantised
    rest = 4 * (base.parameters - matrices) + worker
    return {
        "fp32": base.memory_fp32,
        "bf16": base.memory_bf16,
        "int8": matrices + rest,
        "nf4": int(NF4_BYTES * matrices) + rest,
    }
