"""What an adapter's training left beside its weights: its own chat template, end tokens and defaults of generation.

`prompting.json` of a stored copy, written by the registry (`adapters/training/prompting.py`), every key optional:
{"chat_template": text, "special_tokens": {name: token}, "end_tokens": [token], "end_ids": [id],
"token_ids": {token: id}, "defaults": {sampling parameter: value}, "added_tokens": [{"id", "content", and those of
"special", "normalized", "lstrip", "rstrip", "single_word" that are true}]}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inference.engine.errors import EngineError

from .added_tokens import Added, parse_added

NAMES = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}


@dataclass(frozen=True)
class Prompting:
    template: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    end_tokens: tuple[str, ...] = ()
    end_ids: tuple[int, ...] = ()
    token_ids: Mapping[str, int] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    added: tuple[Added, ...] = ()  # tokens that the base's tokenizer does not have

    def tokens_beside(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The special tokens that a template may name: the adapter's tokenizer has some of these or none, as it was
        saved; without one they are those of the `base`."""
        kept = {name: token for name, token in base.items() if name not in NAMES or not self.special_tokens}
        plain = {name: [*map(str, t)] if isinstance(t, list | tuple) else str(t) for name, t in kept.items()}
        return {**plain, **self.special_tokens}

    def ends(self, tokenizer: Any) -> frozenset[int]:
        """Ids of its end tokens in its tokenizer, or by its own word where that does not know them."""
        found = set(self.end_ids)
        for token in self.end_tokens:
            known = tokenizer.convert_tokens_to_ids(token)
            if type(known) is int and tokenizer.convert_ids_to_tokens(known) == token:
                found.add(known)
            elif token in self.token_ids:
                found.add(self.token_ids[token])
        return frozenset(found)


NOTHING = Prompting()


def parse(data: bytes, name: str) -> Prompting:
    """Raises EngineError `adapter_incompatible`."""
    try:
        said = json.loads(data)
        return Prompting(
            said.get("chat_template", ""), said.get("special_tokens", {}), tuple(said.get("end_tokens", ())),
            tuple(said.get("end_ids", ())), said.get("token_ids", {}), said.get("defaults", {}),
            parse_added(said.get("added_tokens", ())),
        )  # fmt: skip
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        message = f"The chat template and tokens of {name} cannot be read."
        raise EngineError("adapter_incompatible", message, name=name) from error
