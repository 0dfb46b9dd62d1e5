"""Tokenizers by base, for prompts: they are read without the base's weights, on the thread that takes commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference.engine import content
from inference.engine.protocol import BaseSpec

from . import base_loader

KEPT = 8


class Tokenizers:
    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def of(self, spec: BaseSpec) -> Any:
        """Raises EngineError as `content.unchanged` and `load_tokenizer` do."""
        # By the folder's state as well: a chat template may change where nothing that makes up the key does.
        wanted = f"{spec['key']} {spec.get('signature', '')}"
        if wanted not in self.kept:
            with content.unchanged(spec):
                made = base_loader.load_tokenizer(Path(spec["path"]))
            if len(self.kept) >= KEPT:
                self.kept.pop(next(iter(self.kept)))
            self.kept[wanted] = made
        return self.kept[wanted]
