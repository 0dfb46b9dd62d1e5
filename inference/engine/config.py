"""Settings of one engine, checked once."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class EngineConfig:
    """How one worker serves. Sizes in bytes or tokens, times in seconds; 0 means "choose" where a comment says so."""

    runner: str = "inference.engine.model.runner:Runner"
    device: str = "auto"  # auto, cpu, cuda
    precision: str = "auto"  # auto, fp32, bf16, int8, nf4
    threads: int = 0  # 0: OMP_NUM_THREADS, or one per core
    max_batch: int = 32  # sequences in one step
    max_context: int = 2048  # tokens of one sequence, prompt and answer
    prefill_chunk: int = 256  # prompt tokens in one step, all sequences together
    kv_bytes: int = 0  # 0: what is left after base, adapters and reserve
    adapter_bytes: int = 512 * 2**20  # bank budget
    max_gpu_memory: str = ""  # for example 5.5GiB; "": by the card's size
    queue_limit: int = 256  # waiting requests, all users
    user_limit: int = 16  # waiting and running requests of one user
    idle_unload: int = 0  # seconds without work until the base is freed; 0: never
    base_patience: float = 20.0  # longest that a request for another base waits while the loaded one is busy
    cuda_graphs: bool = True  # replay decoding steps on a card
    raw_control_tokens: bool = False  # take control tokens that somebody typed into a message as such
    native: bool = True  # apply adapters by the native kernel where it serves
    nice: int = 0  # above 0: comes after other processes, and is the first to be ended where memory runs out
    run_dir: str = ""  # for lock files and the built kernel; "": the system's temporary folder
    log_level: str = "INFO"
    log_format: str = "line"  # line, json

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_context", "prefill_chunk", "adapter_bytes", "queue_limit", "user_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.device not in {"auto", "cpu", "cuda"}:
            raise ValueError(f"unknown device {self.device!r}")
        if self.precision not in {"auto", "fp32", "bf16", "int8", "nf4"}:
            raise ValueError(f"unknown precision {self.precision!r}")
        parse_size(self.max_gpu_memory or "0")

    @classmethod
    def from_json(cls, text: str) -> EngineConfig:
        """From a JSON object; keys that this version does not know are ignored."""
        data: dict[str, Any] = json.loads(text or "{}")
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})


UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size(text: str) -> int:
    """Bytes of a size like `5.5GiB`, `800 MB` or `123`. Raises ValueError."""
    text = text.strip()
    digits = text.rstrip("BKMGIbkmgi ")
    unit = text[len(digits) :].strip().upper()
    if unit not in UNITS:
        raise ValueError(f"unknown unit in size {text!r}")
    return int(float(digits) * UNITS[unit])
