"""What other tools call the layers of a decoder, and how they store its matrices.

- MLX (mlx_lm/tuner/lora.py): `lora_a` (in, rank) and `lora_b` (rank, out), so both transposed.
- torchtune (torchtune/models/convert_weights.py, `tune_to_peft_adapter_weights`) and mistral-finetune
  (model/transformer.py): layers of Meta's naming. Where these rotate pairs of neighbours (RoPE), the rows of Q and K
  are in another order than in Transformers, which rotates two halves.
- Megatron Core and NeMo: Q, K and V of a layer are one matrix, group by group of queries, gate and up projection
  another, one after the other (megatron/core/transformer/attention.py, mlp.py); its parts share the A matrix.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .keys import Key
from .plan import Rows

A_TAIL, B_TAIL = ".lora_A.weight", ".lora_B.weight"
LAYER = r"(?P<head>(?:[a-z_]+\.)*?)layers\.(?P<layer>\d{1,5})\."
TORCHTUNE = {
    "attn.q_proj": "self_attn.q_proj", "attn.k_proj": "self_attn.k_proj", "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj", "mlp.w1": "mlp.gate_proj", "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}  # fmt: skip
MISTRAL = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}  # fmt: skip
MEGATRON = {
    "self_attention.linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.linear_proj": ("self_attn.o_proj",),
    "mlp.linear_fc1": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.linear_fc2": ("mlp.down_proj",),
}
# Base models, by their model_type, of which torchtune rotates pairs of neighbours, and those of which it does not.
TUNE_PAIRS, TUNE_HALVES = {"llama", "mistral", "gemma"}, {"qwen2"}
MISTRAL_PAIRS = {"llama", "mistral"}
SMALL = re.compile(r"(?P<stem>.+)\.lora_(?P<side>[ab])(?P<weight>\.weight)?\Z")
MLX_MAGNITUDE = re.compile(r"(?P<stem>.+)\.m\Z")
IN_OUT = re.compile(r"(?P<stem>.+?)(?:\.adapter)?\.linear_(?P<side>in|out)\.weight\Z")


@dataclass(frozen=True)
class Heads:
    """Of a base model's attention."""

    model_type: str
    queries: int
    keys: int
    size: int


@dataclass(frozen=True)
class Target:
    """A tensor that is made of one of the file. `stem`: what Transformers calls its module, but for the beginning."""

    stem: str
    tail: str
    transposed: bool = False
    rows: Rows | None = None

    @property
    def side(self) -> str:
        return "A" if self.tail == A_TAIL else "B" if self.tail == B_TAIL else ""


Reader = Callable[[list[Key], Heads | None], list[tuple[Key, list[Target]]] | None]


def plain(keys: list[Key], heads: Heads | None) -> list[tuple[Key, list[Target]]] | None:
    """The names of Transformers."""
    return [(key, [Target(key.stem, key.tail)]) for key in keys]


def mlx(keys: list[Key], heads: Heads | None) -> list[tuple[Key, list[Target]]] | None:
    found = []
    for key in keys:
        if match := SMALL.fullmatch(key.stem + key.tail):
            target = Target(match["stem"], A_TAIL if match["side"] == "a" else B_TAIL, transposed=True)
        elif match := MLX_MAGNITUDE.fullmatch(key.stem + key.tail):
            target = Target(match["stem"], ".lora_magnitude_vector")
        else:
            return None
        found.append((key, [target]))
    return found


def torchtune(keys: list[Key], heads: Heads | None) -> list[tuple[Key, list[Target]]] | None:
    if heads is None or heads.model_type not in TUNE_PAIRS | TUNE_HALVES:
        return None
    found = []
    for key in keys:
        match = SMALL.fullmatch(key.stem + key.tail)
        if match is None or not match["weight"]:
            return None
        side = match["side"].upper()
        renamed = _layer(match["stem"], TORCHTUNE) or _output(match["stem"])
        if renamed is None:
            return None
        found.append((key, [_target(renamed, side, heads, heads.model_type in TUNE_PAIRS)]))
    return found


def mistral(keys: list[Key], heads: Heads | None) -> list[tuple[Key, list[Target]]] | None:
    if heads is None or heads.model_type not in MISTRAL_PAIRS:
        return None
    found = []
    for key in keys:
        renamed = (_layer(key.stem, MISTRAL) or _output(key.stem)) if key.side else None
        if renamed is None:
            return None
        found.append((key, [_target(renamed, key.side, heads, True)]))
    return found


def megatron(keys: list[Key], heads: Heads | None) -> list[tuple[Key, list[Target]]] | None:
    found = []
    for key in keys:
        stem, side = key.stem, key.side
        if match := IN_OUT.fullmatch(key.stem + key.tail):
            stem, side = match["stem"], "A" if match["side"] == "in" else "B"
        place = re.fullmatch(LAYER + r"(?P<rest>.+?)(?:\.to_wrap)?", stem)
        parts = MEGATRON.get(place["rest"], ()) if place is not None else ()
        if not side or not parts or place is None or (len(parts) == 3 and heads is None):
            return None
        stems = [f"model.layers.{place['layer']}.{part}" for part in parts]
        if side == "A":
            found.append((key, [Target(one, A_TAIL) for one in stems]))
        else:
            rows = _fused(len(parts), heads)
            found.append((key, [Target(one, B_TAIL, rows=r) for one, r in zip(stems, rows, strict=True)]))
    return found


def _fused(parts: int, heads: Heads | None) -> list[Rows | None]:
    """The rows of each part of a fused matrix; `size` 0: an equal share, which is filled in when the size is known."""
    if parts == 1:
        return [None]
    if parts == 2:
        return [Rows(1, 0, 0, 0), Rows(1, 0, 1, 0)]
    assert heads is not None  # noqa: S101  (for the type checker)
    per_group = heads.queries // heads.keys * heads.size
    stride = per_group + 2 * heads.size
    return [
        Rows(heads.keys, stride, 0, per_group),
        Rows(heads.keys, stride, per_group, heads.size),
        Rows(heads.keys, stride, per_group + heads.size, heads.size),
    ]


def halved(rows: Rows, length: int) -> Rows | None:
    """`rows` of a matrix of `length` rows, where they were left open; None where that cannot be shared."""
    if rows.size:
        return rows
    return Rows(1, 0, rows.offset * (length // 2), length // 2) if length and length % 2 == 0 else None


def _layer(stem: str, names: dict[str, str]) -> str | None:
    match = re.fullmatch(LAYER + r"(?P<rest>.+)", stem)
    renamed = names.get(match["rest"]) if match is not None else None
    return f"model.layers.{match['layer']}.{renamed}" if match is not None and renamed else None


def _output(stem: str) -> str | None:
    return "lm_head" if stem.rpartition(".")[2] == "output" else None


def _target(stem: str, side: str, heads: Heads, pairs: bool) -> Target:
    if side == "A":
        return Target(stem, A_TAIL)
    count = {"q_proj": heads.queries, "k_proj": heads.keys}.get(stem.rpartition(".")[2], 0) if pairs else 0
    rows = Rows(count, heads.size, 0, heads.size, halves=True) if count else None
    return Target(stem, B_TAIL, rows=rows)


def module_of(key: Key) -> str:
    """What the tool that wrote the file calls the module of a matrix."""
    if key.side:
        return key.stem
    whole = key.stem + key.tail
    match = IN_OUT.fullmatch(whole) or SMALL.fullmatch(whole)
    return match["stem"] if match is not None else key.stem


MLX: tuple[tuple[str, Reader], ...] = (("format_mlx", mlx),)
DIALECTS: tuple[tuple[str, Reader], ...] = (
    ("", plain), ("format_torchtune", torchtune), ("format_mistral", mistral), ("format_megatron", megatron),
)  # fmt: skip
