"""The base's tokenizer as torchtune's recipes call one: torchtune 0.6.1 reads no tokenizer.json of its own."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer


class BaseTokenizer:
    pad_id, bos_id, eos_id, max_seq_len = 0, 1, 2, 256

    def __init__(self, path: str) -> None:
        self.core = Tokenizer.from_file(path)

    def __call__(self, sample: dict[str, Any], inference: bool = False) -> dict[str, Any]:
        tokens: list[int] = []
        mask: list[bool] = []
        for message in sample.pop("messages"):
            ids = self.core.encode(message.text_content).ids
            tokens += ids
            mask += [message.masked] * len(ids)
        return {**sample, "tokens": [*tokens, self.eos_id], "mask": [*mask, False]}
