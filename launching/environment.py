"""What a child process is told by its environment."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# What no child has any business with.
PRIVATE = ("SECRET_KEY", "VLLM_API_KEY", "DATABASE_URL", "REDIS_URL")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")


def without_secrets(**more: str) -> dict[str, str]:
    """For the engine's own programs: our environment without our secrets and without a way to the hub, and `more`."""
    ours = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    return ours | dict.fromkeys(OFFLINE, "1") | more


def of_these(*names: str, **more: str) -> dict[str, str]:
    """For programs that read what others wrote: these of our variables alone, where they are set, and `more`."""
    return {name: os.environ[name] for name in names if name in os.environ} | more


def appear_as(name: str) -> None:
    """How lists of processes call this one, where they show more than a command; at most 15 letters."""
    with contextlib.suppress(OSError):  # Linux alone
        Path("/proc/self/comm").write_text(name, encoding="ascii")
