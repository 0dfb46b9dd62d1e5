"""When the next worker may start, what it is given back, and who has to wait for it or is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inference.engine.content import check_base
from inference.engine.errors import EngineError

from .residents import Residents
from .suspects import Suspects

MAX_BACKOFF = 30.0
GIVE_UP_AFTER = 3  # failed starts in a row before waiting requests hear about it


@dataclass(frozen=True)
class Blame:
    """The base (its key; "" for none) whose fault a worker's end may be: it was being loaded, or was held."""

    base: str = ""
    loading: bool = False
    refusal: str = ""  # why the base is not to be tried again
    change: EngineError | None = None  # its files are not those that the registry saw, which explains the end


class RestartPolicy:
    """Judges by what it is told; it touches no process and knows the time from its clock alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.suspects = Suspects(clock)
        self.residents = Residents()
        self.failures = 0  # starts, or workers that lived for nothing, in a row
        self._not_before = 0.0

    @property
    def gave_up(self) -> bool:
        return self.failures >= GIVE_UP_AFTER

    def delay(self) -> float:
        """Seconds until a worker may be started; 0 where it may be now."""
        return max(0.0, self._not_before - self.clock())

    def wait(self, command: Mapping[str, Any], running: bool) -> float:
        """Seconds after which a command may be tried again; 0 where it is taken. `running`: a worker is ready."""
        wait = self.suspects.wait(command)
        if not wait and not running and self.gave_up:
            wait = self.delay()
        return wait and max(1.0, wait)

    def start_failed(self) -> None:
        self._failed()
        self.residents.drop()

    def ended(self, how: str, ready: bool, healthy: bool, crashed: bool) -> Blame:
        """A worker is gone. `ready`: it had been, `healthy`: and had answered or lived for a while."""
        key, loading = (self.suspects.key, self.suspects.loading) if crashed else ("", False)
        blame = self._blame(key, how) if key and loading else Blame(key)
        if not ready:
            self.start_failed()
            return blame
        if key or healthy:  # at most that base's fault: the others are served at once
            self.failures, self._not_before = 0, self.clock()
        else:
            self._failed()
        restore = not loading and self.suspects.died_holding(healthy) if key else not self.gave_up
        self.suspects.forget_process()
        # A worker that died over the restoration itself would do so again.
        if restore and self.residents.plan is None:
            self.residents.plan_again()
        else:
            self.residents.drop()
        return blame

    def _blame(self, key: str, how: str) -> Blame:
        """Of an end during a load. Weights are read through a mapping: a file that is cut short meanwhile ends the
        process by SIGBUS, which is no fault of the base as the registry will see it next."""
        spec = self.residents.base(key)
        try:
            if spec is not None:
                check_base(spec)
        except EngineError as change:
            return Blame(key, True, change=change)
        return Blame(key, True, self.suspects.died_loading(how))

    def _failed(self) -> None:
        self.failures += 1
        self._not_before = self.clock() + min(MAX_BACKOFF, 0.5 * 2.0 ** (self.failures - 1))
