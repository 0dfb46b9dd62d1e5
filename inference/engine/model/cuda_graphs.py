"""Decoding on fixed buffers, so that a CUDA graph can replay a whole step with one launch.

Steps come in sizes (rows, keys, kinds of layers with adapters); what a step lacks to its size is padding that nobody
reads. A size is captured when it is first needed and compared with the ordinary step once; where a capture fails or
differs, the ordinary step serves on.
Without CUDA the same code runs uncaptured, which is how the tests compare it with PEFT.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.engine.lora.stacked_bank import StackedBank

from .attention import decoding, product
from .kv_cache import KVCache
from .step_rows import DecodeRows

logger = logging.getLogger(__name__)

ROWS = (1, 2, 4, 8, 16, 32, 64)
KEYS = 256  # the shortest length that attention is captured for; longer ones double
WARM_UP = 2  # runs before a capture, in which libraries choose their kernels and take their workspaces
Forward = Callable[[Tensor, "SlotAttention"], Tensor]  # (ids (1, rows), step) -> logits (rows, vocabulary)
Key = tuple[int, int, tuple[str, ...], int]  # rows, keys, kinds with adapters, the working sets' version


class SlotAttention:
    """The attention of a step that only decodes, `keys` long for every row; see `attention.Attention`.

    `inputs` (5, rows) are token, position, place to write keys and values to, keys to attend to, and slot. A row's slot
    may be any, so its keys are gathered: a copy, which a graph takes without asking the host.
    """

    def __init__(self, cache: KVCache, inputs: Tensor, keys: int) -> None:
        self.cache = cache
        _, self.positions, self.index, self.lengths, self.slots = inputs
        self.rows = inputs.shape[1]
        self.keys = keys
        self.masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask (rows, 1, 1, keys), made once a step."""
        if (window, dtype) not in self.masks:
            self.masks[window, dtype] = decoding(self.lengths, self.keys, window, dtype)
        return self.masks[window, dtype]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None,
        softcap: float | None,
    ) -> Tensor:  # fmt: skip
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        kv_heads = keys.shape[2]
        keys.view(-1, kv_heads, keys.shape[3])[self.index] = key[0].transpose(0, 1)
        values.view(-1, kv_heads, values.shape[3])[self.index] = value[0].transpose(0, 1)
        heads, size = query.shape[1], query.shape[3]
        q = query[0].transpose(0, 1).reshape(self.rows, kv_heads, heads // kv_heads, size)
        k = keys[:, : self.keys].index_select(0, self.slots).transpose(1, 2)
        v = values[:, : self.keys].index_select(0, self.slots).transpose(1, 2)
        result = product(q, k, v, self.mask(window, query.dtype), scale, softcap)
        return result.reshape(1, self.rows, heads, values.shape[3])


@dataclass
class Captured:
    """One size: its buffers, and the graph that reads and writes them (None without CUDA)."""

    inputs: Tensor
    masks: dict[str, Tensor] = field(default_factory=dict)
    graph: torch.cuda.CUDAGraph | None = None
    logits: Tensor | None = None


class DecodeGraphs:
    """Captures and replays decoding steps."""

    def __init__(
        self, forward: Forward, cache: KVCache, bank: StackedBank, device: torch.device, tolerance: float
    ) -> None:  # fmt: skip
        self.forward = forward
        self.cache = cache
        self.bank = bank
        self.device = device
        self.tolerance = tolerance  # how far, relative to the largest logit, a new capture may differ
        self.captured: dict[Key, Captured] = {}
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.enabled = True

    def run(
        self, tokens: list[int], decode: DecodeRows, adapters: list[str | None], ordinary: Callable[[], Tensor]
    ) -> Tensor | None:  # fmt: skip
        """Logits (len(tokens), vocabulary) of a step that only decodes; None where the ordinary step must serve.

        `ordinary` gives the same by the ordinary step; a new capture is compared with it.
        """
        count = len(tokens)
        rows = next((size for size in ROWS if size >= count), None)
        if not self.enabled or rows is None:
            return None
        keys = min(self.cache.length, KEYS * 2 ** max(0, (max(decode.lengths) - 1) // KEYS).bit_length())
        self.bank.prepare([*adapters, *[None] * (rows - count)], list(range(rows)), whole=True)
        key = (rows, keys, tuple(sorted(self.bank.masks)), self.bank.version)
        inputs = self._inputs(tokens, decode, rows)
        found = self.captured.get(key)
        if found is not None:
            self._fill(found, inputs)
            return self._replay(found, keys)[:count]
        # Older versions of the working sets are gone, and with them what their graphs point to.
        self.captured = {old: item for old, item in self.captured.items() if old[3] == self.bank.version}
        made = Captured(
            torch.empty_like(inputs, device=self.device), {n: m.clone() for n, m in self.bank.masks.items()}
        )
        self._fill(made, inputs)
        try:
            self._capture(made, keys)
            logits = self._replay(made, keys)[:count]
        except (RuntimeError, torch.OutOfMemoryError) as error:
            self._give_up(f"a step of {rows} rows could not be captured: {error}")
            return None
        expected = ordinary()
        gap = float((logits - expected).abs().max()) / max(1e-9, float(expected.abs().max()))
        if not gap <= self.tolerance:
            self._give_up(f"a captured step of {rows} rows differs by {gap:.1e}")
            return None
        self.captured[key] = made
        return logits

    def _inputs(self, tokens: list[int], decode: DecodeRows, rows: int) -> Tensor:
        places = zip(tokens, decode.slots, decode.lengths, strict=True)
        columns = [(t, n - 1, slot * self.cache.length + n - 1, n, slot) for t, slot, n in places]
        # Padding writes to the last place of the prober's slot, which is longer than any probe.
        padding = (0, 0, self.cache.slots * self.cache.length - 1, 1, self.cache.slots - 1)
        made = torch.tensor(columns + [padding] * (rows - len(columns))).t().contiguous()
        return made.pin_memory() if self.device.type == "cuda" else made

    def _fill(self, item: Captured, inputs: Tensor) -> None:
        item.inputs.copy_(inputs, non_blocking=True)
        for name, mask in item.masks.items():
            mask.copy_(self.bank.masks[name])

    def _step(self, item: Captured, keys: int) -> Tensor:
        self.bank.masks = item.masks
        return self.forward(item.inputs[:1], SlotAttention(self.cache, item.inputs, keys))

    def _capture(self, item: Captured, keys: int) -> None:
        """Repeating a step is harmless: the same keys and values go to the same places."""
        if self.device.type != "cuda":
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._step(item, keys)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            item.logits = self._step(item, keys)
        item.graph = graph

    def _replay(self, item: Captured, keys: int) -> Tensor:
        if item.graph is None or item.logits is None:
            return self._step(item, keys)
        item.graph.replay()
        return item.logits

    def _give_up(self, reason: str) -> None:
        logger.warning("decoding goes on without CUDA graphs: %s", reason)
        self.enabled = False
        self.captured.clear()
