"""Tokenizers by base and by the tokens that adapters add, for prompts: they are read without the base's weights, on
the thread that takes commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference.engine import content
from inference.engine.protocol import AdapterSpec, BaseSpec
from inference.engine.text.added_tokens import Added, with_added
from inference.engine.text.prompting import Prompting

from . import base_loader

KEPT = 8


class Tokenizers:
    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.extended: dict[tuple[str, tuple[Added, ...]], Any] = {}  # each takes as much memory as the base's

    def of(self, spec: BaseSpec) -> Any:
        """Raises EngineError as `content.unchanged` and `load_tokenizer` do."""
        wanted = key_of(spec)
        if wanted not in self.kept:
            with content.unchanged(spec):
                made = base_loader.load_tokenizer(Path(spec["path"]))
            if len(self.kept) >= KEPT:
                self.kept.pop(next(iter(self.kept)))
            self.kept[wanted] = made
        return self.kept[wanted]

    def for_adapter(self, spec: BaseSpec, adapter: AdapterSpec | None, prompting: Prompting) -> Any:
        """The base's, with the tokens that the adapter adds. Raises EngineError as `of` and `with_added` do."""
        if adapter is None or not prompting.added:
            return self.of(spec)
        wanted = key_of(spec), prompting.added
        if wanted not in self.extended:
            made = with_added(self.of(spec), prompting.added, adapter["name"])
            if len(self.extended) >= KEPT:
                self.extended.pop(next(iter(self.extended)))
            self.extended[wanted] = made
        return self.extended[wanted]


def key_of(spec: BaseSpec) -> str:
    """By the folder's state as well: a chat template may change where nothing that makes up the key does."""
    return f"{spec['key']} {spec.get('signature', '')}"
