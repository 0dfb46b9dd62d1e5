"""The keys of a state dict as training left them: wrappers and names of adapters that do not belong into a file.

`torch.compile` puts `_orig_mod` into every name (torch/_dynamo/eval_frame.py), FSDP and activation checkpointing their
own words; PEFT keeps an adapter's name behind `lora_A` while it is in memory and takes it out when it saves
(peft/utils/save_and_load.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from adapters.failures import Refused

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
NAME = r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?"
MATRIX = re.compile(rf"(?P<stem>.+)\.lora_(?P<side>[AB]){NAME}\.(?P<kind>weight|bias)\Z")
EMBEDDING = re.compile(rf"(?P<stem>.+)\.lora_embedding_(?P<side>[AB]){NAME}\Z")
MAGNITUDE = re.compile(rf"(?P<stem>.+)\.lora_magnitude_vector{NAME}(?:\.weight)?\Z")
TOKENS = re.compile(rf"(?P<stem>.+)\.token_adapter\.trainable_tokens_delta{NAME}\Z")
SAVED = re.compile(r"(?P<stem>.+)\.modules_to_save\.(?:(?P<adapter>[^.]+)\.)?(?P<kind>[^.]+)\Z")


@dataclass(frozen=True)
class Key:
    """A tensor's name taken apart: `stem` + `tail` is what PEFT would have written, as far as the module is called so.

    `side`: "A" or "B" of a LoRA matrix, "" of anything else.
    """

    source: str
    stem: str
    tail: str
    side: str = ""
    adapter: str = ""
    wrapped: bool = False


def parse(name: str) -> Key:
    plain = name
    for wrapper in WRAPPERS:
        plain = plain.replace(wrapper, "")
    wrapped = plain != name
    if match := MATRIX.fullmatch(plain):
        side = match["side"] if match["kind"] == "weight" else ""
        tail = f".lora_{match['side']}.{match['kind']}"
        return Key(name, match["stem"], tail, side, match["adapter"] or "", wrapped)
    if match := EMBEDDING.fullmatch(plain):
        return Key(name, match["stem"], f".lora_embedding_{match['side']}", "", match["adapter"] or "", wrapped)
    if match := MAGNITUDE.fullmatch(plain):
        return Key(name, match["stem"], ".lora_magnitude_vector", "", match["adapter"] or "", wrapped)
    if match := TOKENS.fullmatch(plain):
        tail = ".token_adapter.trainable_tokens_delta"
        return Key(name, match["stem"], tail, "", match["adapter"] or "", wrapped)
    if match := SAVED.fullmatch(plain):
        return Key(name, match["stem"], f".{match['kind']}", "", match["adapter"] or "", wrapped)
    stem, _, kind = plain.rpartition(".")
    return Key(name, stem, f".{kind}", wrapped=wrapped)


def only_adapter(keys: Iterable[Key]) -> str:
    """The one name of an adapter that the keys hold, "" for none. Raises Refused repair_ambiguous where there are
    several: which one is meant only who trained them knows."""
    names = sorted({key.adapter for key in keys if key.adapter})
    if len(names) > 1:
        raise Refused("repair_ambiguous", first=names[0], second=names[1])
    return names[0] if names else ""
