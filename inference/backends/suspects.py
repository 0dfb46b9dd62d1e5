"""Which base the worker was loading or held when it died, so that one base's crashes are no other base's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

REFUSED_AFTER = 2  # ends of the process in a row while the same base was loading
PATIENCE = 3  # ends in a row while the same base was loaded, before its requests hear that they have to wait
LONGEST_WAIT = 30.0  # seconds


class Suspects:
    """What the worker says about loads, and what followed. Keys are those of bases."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.key = ""  # of the base that is being loaded or is loaded
        self.loading = False
        self._loads: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}

    def heard(self, event: Mapping[str, Any]) -> None:
        """A `base_load` event."""
        self.loading = event["state"] == "begun"
        self.key = "" if event["state"] == "failed" else event["key"]
        if event["state"] != "begun":  # for better or worse, the process outlived it
            self._loads.pop(event["key"], None)

    def died_loading(self, how: str) -> str:
        """The process ended during a load. The reason to refuse the base for; "" while it may be tried again."""
        self._loads[self.key] += 1
        if self._loads[self.key] < REFUSED_AFTER:
            return ""
        del self._loads[self.key]
        return f"the engine's process ended ({how}) {REFUSED_AFTER} times in a row while it was loaded"

    def died_holding(self, healthy: bool) -> bool:
        """The process ended with the base loaded. Whether the base may be restored without being asked for.

        `healthy`: the process had answered, or lived for a while.
        """
        if healthy:
            self._deaths.pop(self.key, None)
            self._not_before.pop(self.key, None)
            return True
        self._deaths[self.key] += 1
        count = self._deaths[self.key]
        if count >= PATIENCE:
            self._not_before[self.key] = self.clock() + min(LONGEST_WAIT, 0.5 * 2.0 ** (count - 1))
        return count < PATIENCE

    def forget_process(self) -> None:
        self.key, self.loading = "", False

    def wait(self, command: Mapping[str, Any]) -> float:
        """Seconds for which a command's base is not tried; 0 where it may be."""
        key = (command.get("base") or {}).get("key", "")
        return max(0.0, self._not_before.get(key, 0.0) - self.clock())
