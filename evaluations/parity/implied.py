"""What training implies for a conversation: its text by the template that training had, its tokens by its tokenizer.

Both are the adapter's own where its folder holds them, as trainers save them, else the base's. The whole conversation
with its answer is written at once, as trainers do; what is served writes the question and lets the answer follow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from django.utils.translation import gettext_noop

from adapters.bases.identity import base_root
from adapters.details import files_of
from adapters.failures import Refused
from adapters.formats.files import open_below
from adapters.lifecycle.sources import real_roots
from adapters.models import LoraAdapter
from adapters.training.prompting import read_prompting
from evaluations.models import Item
from inference.engine.content import read_prompting as read_kept
from inference.engine.text.plain_tokenizer import PlainTokenizer
from inference.engine.text.prompting import NOTHING, Prompting, parse
from inference.engine.text.rendering import RENDERER, TemplateError
from inference.errors import InferenceError

from .tokens import TokenizerError, Written, tokenize

TOKENIZER = "tokenizer.json"
LARGEST = 128 * 2**20  # bytes of it


@dataclass(frozen=True)
class Implied:
    """`template`, `tokenizer`: whose it is: "adapter", "base", or "" for none."""

    adapter: LoraAdapter
    own: Prompting
    base: PlainTokenizer
    template: str
    tokenizer: str

    def facts(self) -> dict[str, str]:
        return {"template": self.template, "tokenizer": self.tokenizer}

    def written(self, items: Sequence[Item]) -> dict[int, Written | str]:
        """By the item's id: its tokens with the reference, or the reason why there are none."""
        texts: dict[int, tuple[str, bool]] = {}
        found: dict[int, Written | str] = {}
        for item in items:
            try:
                texts[item.pk] = self._text(item)
            except (TemplateError, OSError) as error:
                found[item.pk] = str(error)[:200]
        try:
            with self._tokenizer() as file:
                made = tokenize(file, list(texts.values()))
        except (TokenizerError, Refused, OSError) as error:
            reason = getattr(error, "reason", "") or gettext_noop("its tokenizer cannot be read")
            return found | dict.fromkeys(texts, str(reason)[:200])
        return found | dict(zip(texts, made, strict=True))

    def _text(self, item: Item) -> tuple[str, bool]:
        """Raises TemplateError, OSError."""
        if item.messages is None:
            return (item.prompt or "") + item.reference, True
        template = self.own.template or self.base.chat_template
        if not template:
            raise TemplateError(gettext_noop("neither the adapter nor its base has a chat template"))
        tokens = self.own.tokens_beside(self.base.special_tokens_map)
        turns = [*item.messages, {"role": "assistant", "content": item.reference}]
        return RENDERER.render(template, turns, tokens, whole=True), False

    @contextmanager
    def _tokenizer(self) -> Iterator[BinaryIO]:
        """Raises Refused, TokenizerError."""
        if not self.tokenizer or self.adapter.base is None:
            raise TokenizerError(gettext_noop("there is no tokenizer.json"))
        own = self.tokenizer == "adapter"
        roots, folder = (real_roots(), self.adapter.path) if own else (base_root(), self.adapter.base.path)
        with open_below(roots, folder, TOKENIZER) as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise TokenizerError(gettext_noop("its tokenizer.json is too large"))
            yield file


def implied(adapter: LoraAdapter) -> Implied:
    """By the training folder; where that is gone, by the stored copy, which has no tokenizer.

    Raises InferenceError `base_missing`, Refused, EngineError, OSError, ValueError.
    """
    if adapter.base is None:
        raise InferenceError("base_missing", detail={"name": adapter.name})
    if os.path.isdir(adapter.path):
        names = {file.name for file in files_of(adapter)}
        data = read_prompting(real_roots(), adapter.path, names)
    else:
        names, expected = set(), adapter.prompting.get("sha256", "")
        data = read_kept(adapter.store_path, adapter.digest, adapter.name, expected) if expected else b""
    own = parse(data, adapter.name) if data else NOTHING
    base = PlainTokenizer(Path(adapter.base.path))
    template = "adapter" if own.template else "base" if base.chat_template else ""
    there = (Path(adapter.base.path) / TOKENIZER).is_file()
    return Implied(adapter, own, base, template, "adapter" if TOKENIZER in names else "base" if there else "")
