"""What a worker held, so that the next one can be given it back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

from inference.engine.protocol import BaseSpec
from inference.engine.recipes import digests_of

KNOWN = 1024


class Residents:
    """Specs by identity (from commands), and which of them are loaded (from heartbeats and answers)."""

    COMMAND_ID = "restore"

    def __init__(self) -> None:
        self.plan: dict[str, Any] | None = None  # load command for the next worker
        self._bases: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._adapters: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._status: Mapping[str, Any] = {}
        self._answered: tuple[str, set[str]] = ("", set())  # base and adapters that answered since that status

    def note(self, command: Mapping[str, Any]) -> None:
        base = command.get("base")
        if base:
            keep(self._bases, base["key"], base)
        for adapter in [command.get("adapter"), *command.get("adapters", ())]:
            if adapter:
                keep(self._adapters, adapter["digest"], adapter)

    def base(self, key: str) -> BaseSpec | None:
        """The base's spec as it was last asked for."""
        return cast(BaseSpec | None, self._bases.get(key))

    def seen(self, status: Mapping[str, Any]) -> None:
        """A heartbeat's status."""
        self._status, self._answered = status, ("", set())

    def answered(self, command: Mapping[str, Any]) -> None:
        """A request ended well, so its base and adapter are loaded whatever the last heartbeat said."""
        key, digests = command["base"]["key"], self._answered[1]
        if key != self._answered[0]:
            digests = set()
        if command.get("adapter"):
            digests.add(command["adapter"]["digest"])
        self._answered = (key, digests)

    def forget(self, digest: str) -> None:
        """Neither the adapter comes back nor a blend that it is a member of."""
        for key in [key for key, spec in self._adapters.items() if digest in digests_of(spec)]:
            del self._adapters[key]
        if self.plan is not None:
            self.plan["adapters"] = [a for a in self.plan["adapters"] if digest not in digests_of(a)]

    def plan_again(self) -> None:
        """After a crash: plan to restore what was loaded."""
        status, (key, digests) = self._status, self._answered
        self.drop()
        if key and key != status.get("base_key"):
            status = {}
        base = self._bases.get(key or status.get("base_key") or "")
        if base is None:
            return
        held = dict.fromkeys([*(item["digest"] for item in status.get("adapters", ())), *sorted(digests)])
        self.plan = {
            "type": "load",
            "id": self.COMMAND_ID,
            "base": base,
            "adapters": [self._adapters[digest] for digest in held if digest in self._adapters],
            "pin": bool(status.get("pinned")),
        }

    def drop(self) -> None:
        """Restore nothing."""
        self.plan = None
        self._status, self._answered = {}, ("", set())

    def command(self, waiting: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """The load command for a worker that has just become ready.

        None where requests wait for another base: loading this one would only delay them.
        """
        plan = self.plan
        if plan is None:
            return None
        bases = {command["base"]["key"] for command in waiting if command.get("base")}
        if bases and plan["base"]["key"] not in bases:
            self.plan = None
            return None
        return plan


def keep(known: OrderedDict[str, Mapping[str, Any]], key: str, spec: Mapping[str, Any]) -> None:
    known[key] = spec
    known.move_to_end(key)
    while len(known) > KNOWN:
        known.popitem(last=False)
