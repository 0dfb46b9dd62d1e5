"""The attention of one step over sequences of any lengths, on their slots of the cache."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from inference.engine.native.library import HEADS, Native

from .attention import causal, decoding, product
from .kv_cache import KVCache
from .step_rows import DecodeRows, PromptRows


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
            made = self.masks[window, dtype] = decoding(self.lengths, self.length, window, dtype)
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
    """The attention of one step; see `attention.Attention`."""

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

    def _prompt_mask(self, prompt: PromptRows, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """Additive mask (group * size, start + size): causal, within the window, repeated for each query head."""
        key = (prompt.offset, window, group, dtype)
        made = self.masks.get(key)
        if made is None:
            made = causal(prompt.start, prompt.size, window, dtype, self.index.device)
            made = self.masks[key] = made.repeat(group, 1)
        return made

    def _keep(self, keys: Tensor, values: Tensor, key: Tensor, value: Tensor) -> None:
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

    def _attend_natively(
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
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        kv_heads = keys.shape[2]
        heads, size = query.shape[1], query.shape[3]
        group = heads // kv_heads
        out = query.new_empty(self.rows, heads, values.shape[3])
        self._keep(keys, values, key, value)
        if self.native is not None and softcap is None:
            self._attend_natively(keys, values, query, out, scale, window)
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
            result = product(q, k, v, self._prompt_mask(prompt, window, group, query.dtype), scale, softcap)
            result = result.view(heads, prompt.size, -1).transpose(0, 1)
            out[prompt.offset : prompt.offset + prompt.size] = result
        return out.unsqueeze(0)


def dense_rows(x: Tensor) -> Tensor:
    """x (..., size) with its last dimension side by side, as the kernels want it."""
    return x if x.stride(-1) == 1 else x.contiguous()
