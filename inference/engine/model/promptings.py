"""What adapters bring for their prompts, read from their stored copies on the threads that take commands and read
adapters."""

from __future__ import annotations

import threading
from pathlib import Path

from inference.engine import content
from inference.engine.protocol import AdapterSpec
from inference.engine.text.prompting import NOTHING, Prompting, parse

KEPT = 256


class Promptings:
    def __init__(self) -> None:
        self.kept: dict[str, Prompting] = {}  # by digest
        self._lock = threading.Lock()

    def of(self, spec: AdapterSpec | None) -> Prompting:
        """`NOTHING` for the base itself. Raises EngineError as `content.read_prompting` and `parse` do."""
        expected = spec.get("prompting") if spec is not None else ""
        if spec is None or not expected:
            return NOTHING
        digest = spec["digest"]
        with self._lock:
            if digest not in self.kept:
                made = parse(content.read_prompting(Path(spec["path"]), digest, spec["name"], expected), spec["name"])
                if len(self.kept) >= KEPT:
                    self.kept.pop(next(iter(self.kept)))
                self.kept[digest] = made
            return self.kept[digest]
