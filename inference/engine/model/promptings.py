"""What adapters bring for their prompts, read from their stored copies on the threads that take commands and read
adapters."""

from __future__ import annotations

import threading
from pathlib import Path

from inference.engine import content
from inference.engine.protocol import AdapterSpec, Member
from inference.engine.text.prompting import NOTHING, Prompting, parse

KEPT = 256


class Promptings:
    def __init__(self) -> None:
        self.kept: dict[str, Prompting] = {}  # by digest
        self._lock = threading.Lock()

    def of(self, spec: AdapterSpec | None) -> Prompting:
        """`NOTHING` for the base itself; of a blend what its first member brings. Raises EngineError as
        `content.read_prompting` and `parse` do."""
        if spec is None:
            return NOTHING
        members = spec.get("members")
        return self.of_member(members[0] if members else spec)

    def of_member(self, one: AdapterSpec | Member) -> Prompting:
        expected = one.get("prompting")
        if not expected:
            return NOTHING
        digest = one["digest"]
        with self._lock:
            if digest not in self.kept:
                made = parse(content.read_prompting(Path(one["path"]), digest, one["name"], expected), one["name"])
                if len(self.kept) >= KEPT:
                    self.kept.pop(next(iter(self.kept)))
                self.kept[digest] = made
            return self.kept[digest]
