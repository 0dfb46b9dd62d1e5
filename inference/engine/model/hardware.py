"""The device that the engine computes on: what is free on it, how much of it may be taken, and whose it is."""

from __future__ import annotations

import os

import torch

from inference.engine.config import EngineConfig
from inference.engine.locks import DeviceLock

from . import memory


class Hardware:
    def __init__(self, config: EngineConfig) -> None:
        self.cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda", 0) if self.cuda else torch.device("cpu")
        self.graphs = self.cuda and config.cuda_graphs  # decode on fixed buffers
        self._limit = config.max_gpu_memory
        self._lock: DeviceLock | None = None
        if not self.cuda:
            torch.set_num_threads(config.threads or default_threads())

    def free_bytes(self) -> int:
        """What the engine may still take."""
        if not self.cuda:
            return memory.available_ram()
        free, total = torch.cuda.mem_get_info(self.device)
        limit = memory.gpu_limit(total, self._limit)
        return int(min(free, limit - torch.cuda.memory_reserved(self.device)))

    def used_bytes(self) -> tuple[int, int]:
        """(used, all) of a card, by whomever."""
        free, total = torch.cuda.mem_get_info(self.device) if self.cuda else (0, 0)
        return total - free, total

    def peak_bytes(self) -> int:
        """What this process held of a card at most."""
        return torch.cuda.max_memory_reserved(self.device) if self.cuda else 0

    def take(self) -> None:
        """Keep the card to ourselves, and let the allocator fail at the limit rather than take what the desktop or
        another program needs. Raises EngineError `device_busy`."""
        if self.cuda:
            self._lock = DeviceLock(str(self.device))
            total = torch.cuda.get_device_properties(self.device).total_memory
            limit = memory.gpu_limit(total, self._limit)
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), self.device)

    def release(self) -> None:
        if self.cuda:
            torch.cuda.empty_cache()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def default_threads() -> int:
    """OMP_NUM_THREADS, as every library takes it, or one for each core that we may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() and int(named) > 0 else len(os.sched_getaffinity(0))
