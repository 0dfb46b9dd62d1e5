"""What training left beside the weights that decides an answer: chat template, end tokens, defaults of generation, and
tokens that the base's tokenizer does not have.

It belongs to the adapter as its weights do, and goes into the stored copy, and so into its digest, as one small file,
which the engine reads (`inference/engine/text/prompting.py` says what it holds).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext_noop

from adapters.failures import Refused
from adapters.formats.added_tokens import Location, added_tokens
from adapters.formats.files import parse_json, read_small
from adapters.formats.tokenizer import LARGEST_ID, added_ids, default_template

from .layout import PROMPT_FILES

FILE = "prompting.json"  # in the stored copy
TEMPLATE, TOKENIZER, TOKENS, ADDED, GENERATION, _ = PROMPT_FILES
STORED_LIMIT = 2**21  # bytes of it; the engine and the check of the store read no more (`engine/content.py`)
LIMIT = 16 * 2**20  # bytes of a file; tokenizers with many tokens have long ones
LONGEST_TEMPLATE = 2**20  # characters
LONGEST_TOKEN, MOST_TOKENS = 200, 64
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Sampling parameters by the names of generation_config.json, which are ours: (least, most, whether a whole number).
RANGES = {
    "temperature": (0, 2, False), "top_p": (1e-9, 1, False), "top_k": (0, 1000, True), "min_p": (0, 1, False),
    "repetition_penalty": (1e-9, 10, False),
}  # fmt: skip


def read_prompting(roots: tuple[str, ...], folder: str, names: Iterable[str], base: Location | None = None) -> bytes:
    """The file for the stored copy of the adapter in `folder`, which holds files of these `names`; b"" for nothing.
    `base`: of its base model, whose tokenizer counts.

    Raises Refused: config_malformed, config_too_large, config_invalid, tokenizer_differs, and as `read_small`.
    """
    there = set(names)

    def table(name: str) -> dict[str, Any]:
        if name not in there:
            return {}
        found = parse_json(read_small(roots, folder, name, LIMIT), name, strict=False)
        if not isinstance(found, dict):
            raise Refused("config_malformed", file=name, reason=gettext_noop("not an object"))
        return found

    tokenizer, generation = table(TOKENIZER), table(GENERATION)
    template, source = default_template(tokenizer), TOKENIZER
    if TEMPLATE in there:
        source = TEMPLATE
        template = read_small(roots, folder, TEMPLATE, 4 * LONGEST_TEMPLATE).decode("utf-8", "replace")
    if len(template) > LONGEST_TEMPLATE:
        raise Refused("config_too_large", file=source, limit=LONGEST_TEMPLATE)
    special = _special({**table(TOKENS), **{k: v for k, v in tokenizer.items() if v is not None}})
    ends = [special["eos_token"]] if "eos_token" in special else []
    found = {
        "chat_template": template,
        "special_tokens": special,
        "end_tokens": ends,
        "end_ids": _ids(generation.get("eos_token_id")),
        "token_ids": _token_ids(ends, {**table(ADDED), **added_ids(tokenizer)}),
        "defaults": _defaults(generation),
        "added_tokens": added_tokens(Location(roots, folder), there, base) if base is not None else [],
    }
    kept = {key: value for key, value in found.items() if value}
    if not kept:
        return b""
    data = json.dumps(kept, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace") + b"\n"
    if len(data) > STORED_LIMIT:  # a template within its limit, of characters that take several bytes each
        raise Refused("config_too_large", file=source, limit=STORED_LIMIT)
    return data


def digest_of(prompting: bytes) -> str:
    """sha256 of the file; "" where there is none."""
    return hashlib.sha256(prompting).hexdigest() if prompting else ""


def _special(said: dict[str, Any]) -> dict[str, str]:
    """The special tokens by name; each is a text or an object that holds it."""
    found = {}
    for name in SPECIAL:
        token = said.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and 0 < len(token) <= LONGEST_TOKEN:
            found[name] = token
    return found


def _ids(said: Any) -> list[int]:
    items = said if isinstance(said, list) else [said]
    return sorted({item for item in items if type(item) is int and 0 <= item <= LARGEST_ID})[:MOST_TOKENS]


def _token_ids(tokens: list[str], known: dict[str, Any]) -> dict[str, int]:
    """The ids that the adapter's own tokenizer gives these tokens, where it has added them."""
    found = {token: known.get(token) for token in tokens}
    return {token: number for token, number in found.items() if type(number) is int and 0 <= number <= LARGEST_ID}


def _defaults(generation: dict[str, Any]) -> dict[str, Any]:
    if generation.get("do_sample") is False:
        generation = {**generation, "temperature": 0}
    found = {}
    for name, (least, most, whole) in RANGES.items():
        value = generation.get(name)
        if (type(value) is int or (type(value) is float and not whole)) and least <= value <= most:
            found[name] = value
    return found
