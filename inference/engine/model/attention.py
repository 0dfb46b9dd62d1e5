"""Keys and values by slot, and the attention of one step over sequences of any lengths.

A step's tokens lie in one row of batch size 1, whatever sequence they belong to: first one token of each sequence that
decodes, then prompt chunks. The function is registered with Transformers' public registry of attention functions, so
every architecture that uses the registry works unchanged.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from inference.engine.errors import EngineError
from inference.engine.native.library import HEADS, Native

NAME = "loraportal"
# Arguments that say nothing about the result here. Any other that is not None means mathematics we do not have.
HARMLESS = {
    "position_ids", "cache_position", "output_attentions", "use_cache", "is_causal", "layer_idx", "dropout",
    "position_embeddings", "output_hidden_states", "output_router_logits", "logits_to_keep", "return_dict", "head_mask",
    "num_items_in_batch", "deterministic", "target_dtype",
}  # fmt: skip


@dataclass
class LayerShape:
    heads: int
    key: int
    value: int


class KVCache:
    """Per layer keys (slots, length, kv heads, key size) and values alike, zeroed once and lazily backed on a CPU."""

    def __init__(
        self, shapes: dict[int, LayerShape], slots: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.slots = slots
        self.length = length
        self.keys = {i: lazy_zeros((slots, length, s.heads, s.key), device, dtype) for i, s in shapes.items()}
        self.values = {i: lazy_zeros((slots, length, s.heads, s.value), device, dtype) for i, s in shapes.items()}

    def scrub(self, slot: int) -> None:
        """Zeros instead of what a failed sequence may have left: a masked NaN is still a NaN."""
        for tensor in (*self.keys.values(), *self.values.values()):
            tensor[slot] = 0

    @staticmethod
    def bytes_per_token(shapes: dict[int, LayerShape], dtype: torch.dtype) -> int:
        return sum(s.heads * (s.key + s.value) for s in shapes.values()) * dtype.itemsize


def lazy_zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros whose pages a CPU backs only once they are written: torch.zeros would touch every byte."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(numpy.zeros(size, dtype=numpy.uint8)).view(dtype).view(shape)


@dataclass
class DecodeRows:
    """Sequences that decode: row i of the step attends to slot `slots[i]`, `lengths[i]` keys (itself included)."""

    slots: list[int]
    lengths: list[int]


@dataclass
class PromptRows:
    """A prompt chunk: rows `offset : offset + size` of the step, positions `start : start + size` of slot `slot`."""

    offset: int
    size: int
    slot: int
    start: int


class Bucket:
    """Decoding rows of similar length, so that a long conversation does not make short ones pay."""

    def __init__(self, rows: list[int], slots: list[int], lengths: list[int], device: torch.device) -> None:
        self.length = max(lengths)
        low, high = min(slots), max(slots) + 1
        self.contiguous = slots == list(range(low, high))
        self.low, self.high = low, high
        self.slots = torch.tensor(slots, device=device)
        in_order = rows == list(range(rows[0], rows[0] + len(rows)))
        self.rows: slice | Tensor = (
            slice(rows[0], rows[0] + len(rows)) if in_order else torch.tensor(rows, device=device)
        )
        self.lengths = torch.tensor(lengths, device=device)
        self.masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask (rows, 1, 1, length)."""
        made = self.masks.get((window, dtype))
        if made is None:
            position = torch.arange(self.length, device=self.lengths.device)
            visible = position[None, :] < self.lengths[:, None]
            if window is not None:
                visible &= position[None, :] >= (self.lengths - window)[:, None]
            made = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            made.masked_fill_(~visible, float("-inf"))
            made = self.masks[window, dtype] = made[:, None, None, :]
        return made

    def gather(self, cache: Tensor) -> Tensor:
        """(rows, kv heads, length, size) of the rows' slots; a view where the slots lie side by side."""
        part = cache[self.low : self.high, : self.length] if self.contiguous else cache[self.slots, : self.length]
        return part.transpose(1, 2)


def buckets(decode: DecodeRows, device: torch.device) -> list[Bucket]:
    """Group rows so that within a bucket the longest is at most twice the shortest plus 256 keys."""
    if not decode.slots:
        return []
    by_length = sorted(range(len(decode.slots)), key=lambda row: decode.lengths[row])
    groups: list[list[int]] = [[by_length[0]]]
    for row in by_length[1:]:
        if decode.lengths[row] > 2 * decode.lengths[groups[-1][0]] + 256:
            groups.append([])
        groups[-1].append(row)
    made = []
    for group in groups:
        group.sort(key=lambda row: decode.slots[row])
        made.append(Bucket(group, [decode.slots[r] for r in group], [decode.lengths[r] for r in group], device))
    return made


class StepAttention:
    """The attention of one step; handed to the model as the keyword `step`, so nothing global is involved."""

    def __init__(
        self, cache: KVCache, decode: DecodeRows, prompts: list[PromptRows], device: torch.device,
        native: Native | None = None,
    ) -> None:  # fmt: skip
        self.cache = cache
        self.decode = decode
        self.prompts = prompts
        self.native = native
        if native is not None:
            self.slots, self.lengths = torch.tensor(decode.slots), torch.tensor(decode.lengths)
            self.room = (max(decode.lengths, default=0) + 15) // 16 * 16
            self.threads = torch.get_num_threads()
        slots = list(decode.slots)
        positions = [length - 1 for length in decode.lengths]
        for prompt in prompts:
            slots += [prompt.slot] * prompt.size
            positions += range(prompt.start, prompt.start + prompt.size)
        self.rows = len(slots)
        flat = [slot * cache.length + position for slot, position in zip(slots, positions, strict=True)]
        self.index = torch.tensor(flat, device=device)
        self.positions = torch.tensor(positions, device=device)
        self.masks: dict[tuple[int, int | None, int, torch.dtype], Tensor] = {}

    @functools.cached_property
    def buckets(self) -> list[Bucket]:
        return buckets(self.decode, self.index.device)

    def prompt_mask(self, prompt: PromptRows, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """Additive mask (group * size, start + size): causal, within the window, repeated for each query head."""
        key = (prompt.offset, window, group, dtype)
        made = self.masks.get(key)
        if made is None:
            device = self.index.device
            query = torch.arange(prompt.start, prompt.start + prompt.size, device=device)[:, None]
            position = torch.arange(prompt.start + prompt.size, device=device)[None, :]
            visible = position <= query
            if window is not None:
                visible &= position > query - window
            made = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))
            made = self.masks[key] = made.repeat(group, 1)
        return made

    def keep(self, keys: Tensor, values: Tensor, key: Tensor, value: Tensor) -> None:
        """The step's keys and values (1, kv heads, rows, size) into the cache."""
        kv_heads, native = keys.shape[2], self.native
        if native is None:
            keys.view(-1, kv_heads, keys.shape[3])[self.index] = key[0].transpose(0, 1)
            values.view(-1, kv_heads, values.shape[3])[self.index] = value[0].transpose(0, 1)
            return
        key, value = dense_rows(key), dense_rows(value)
        native.keep_rows(
            key.data_ptr(), key.stride(1), key.stride(2), value.data_ptr(), value.stride(1), value.stride(2),
            self.index.data_ptr(), self.rows, kv_heads, keys.shape[3], values.shape[3], keys.data_ptr(),
            values.data_ptr(),
        )  # fmt: skip

    def attend_natively(
        self, keys: Tensor, values: Tensor, query: Tensor, out: Tensor, scale: float | None, window: int | None
    ) -> None:
        """The rows that decode, by `native/attention.c`."""
        native, rows = self.native, len(self.decode.slots)
        if native is None or not rows:
            return
        query = dense_rows(query)
        heads, size = query.shape[1], query.shape[3]
        native.decode_attention(
            query.data_ptr(), query.stride(1), query.stride(2), keys.data_ptr(), values.data_ptr(),
            self.slots.data_ptr(), self.lengths.data_ptr(), rows, heads, keys.shape[2], size, values.shape[3],
            self.cache.length, window or 0, size**-0.5 if scale is None else scale, out.data_ptr(),
            native.scratch(HEADS * self.room * self.threads), self.room, self.threads,
        )  # fmt: skip

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None,
        softcap: float | None,
    ) -> Tensor:  # fmt: skip
        """query (1, heads, rows, size), key and value (1, kv heads, rows, size) -> (1, rows, heads, value size)."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        kv_heads = keys.shape[2]
        heads, size = query.shape[1], query.shape[3]
        group = heads // kv_heads
        out = query.new_empty(self.rows, heads, values.shape[3])
        self.keep(keys, values, key, value)
        if self.native is not None and softcap is None:
            self.attend_natively(keys, values, query, out, scale, window)
        else:
            by_row = query[0].transpose(0, 1)  # (rows, heads, size)
            for bucket in self.buckets:
                q = by_row[bucket.rows].reshape(-1, kv_heads, group, size)
                result = product(
                    q, bucket.gather(keys), bucket.gather(values), bucket.mask(window, query.dtype), scale, softcap
                )
                out[bucket.rows] = result.reshape(-1, heads, values.shape[3])
        for prompt in self.prompts:
            stop = prompt.start + prompt.size
            q = query[:, :, prompt.offset : prompt.offset + prompt.size]
            q = q.reshape(1, kv_heads, group * prompt.size, size)
            k = keys[prompt.slot : prompt.slot + 1, :stop].transpose(1, 2)
            v = values[prompt.slot : prompt.slot + 1, :stop].transpose(1, 2)
            result = product(q, k, v, self.prompt_mask(prompt, window, group, query.dtype), scale, softcap)
            result = result.view(heads, prompt.size, -1).transpose(0, 1)
            out[prompt.offset : prompt.offset + prompt.size] = result
        return out.unsqueeze(0)


def dense_rows(x: Tensor) -> Tensor:
    """x (..., size) with its last dimension side by side, as the kernels want it."""
    return x if x.stride(-1) == 1 else x.contiguous()


def product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None, softcap: float | None) -> Tensor:
    """softmax(q kᵀ · scale + mask) v; with `softcap` c the scores pass through c · tanh(scores / c) (Gemma 2, §2)."""
    if softcap is None:
        return sdpa(q, k, v, attn_mask=mask, scale=scale)
    scores = torch.matmul(q, k.transpose(2, 3)) * (scale if scale is not None else q.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap + mask
    return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), v)


@dataclass
class ShapeProbe:
    """In place of a StepAttention during the first run of a model: plain causal attention that notes the shapes."""

    shapes: dict[int, LayerShape] = field(default_factory=dict)
    calls: int = 0

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None,
        softcap: float | None,
    ) -> Tensor:  # fmt: skip
        self.calls += 1
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        rows, heads = query.shape[2], query.shape[1]
        group = heads // key.shape[1]
        position = torch.arange(rows, device=query.device)
        visible = position[None, :] <= position[:, None]
        if window is not None:
            visible &= position[None, :] > position[:, None] - window
        mask = torch.zeros(visible.shape, dtype=query.dtype, device=query.device).masked_fill_(~visible, float("-inf"))
        q = query.reshape(1, key.shape[1], group * rows, query.shape[3])
        result = product(q, key, value, mask.repeat(group, 1), scale, softcap)
        return result.view(1, heads, rows, -1).transpose(1, 2)


class Attention(Protocol):
    """The attention of a step, handed to the model as the keyword `step`."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None,
        softcap: float | None,
    ) -> Tensor:  # fmt: skip
        """query (1, heads, rows, size), key and value (1, kv heads, rows, size) -> (1, rows, heads, value size)."""
        ...


def attention_function(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    step: Attention | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface. Raises EngineError for mathematics that it does not know."""
    unknown = [name for name, item in kwargs.items() if item is not None and name not in HARMLESS]
    if unknown or attention_mask is not None or step is None:
        reason = f"its attention uses {', '.join(sorted(unknown)) or 'a mask of its own'}"
        raise EngineError("base_unsupported", f"This architecture cannot be served exactly: {reason}.", reason=reason)
    layer: int = module.layer_idx  # type: ignore[assignment]
    return step.attend(layer, query, key, value, scaling, sliding_window, softcap).contiguous(), None
