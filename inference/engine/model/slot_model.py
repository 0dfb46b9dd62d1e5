"""A Transformers model that computes by slots: one forward pass over the rows of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.engine.lora.bank import AdapterWeights, LoraBank
from inference.engine.lora.own import OwnRows
from inference.engine.lora.stacked_bank import StackedBank
from inference.engine.native.library import Native

from .cuda_graphs import DecodeGraphs, SlotAttention
from .kv_cache import KVCache
from .scoring import Tail
from .step_attention import StepAttention
from .step_rows import StepRows


@dataclass
class Hidden:
    """What the decoder gave (rows, size) at the rows `wanted` of a step."""

    values: Tensor
    step: StepRows
    wanted: list[int]


class SlotModel:
    """A model with the engine's attention and linear layers, its keys and values, and the adapters beside it."""

    def __init__(
        self, module: PreTrainedModel, cache: KVCache, bank: LoraBank, own: OwnRows, device: torch.device,
        native: Native | None, logits: int,
    ) -> None:  # fmt: skip
        """`logits`: how many a position of the base has."""
        self.module = module
        self.logits = logits
        self.cache = cache
        self.bank = bank
        self.own = own
        self.device = device
        self.native = native
        self.graphs: DecodeGraphs | None = None
        self.tail = Tail(module)

    @property
    def probe_slot(self) -> int:
        """The slot that no sequence is given."""
        return self.cache.slots - 1

    def add(self, weights: AdapterWeights) -> None:
        self.bank.add(weights)
        if weights.own is not None:
            self.own.add(weights.digest, weights.own)

    def remove(self, digest: str) -> None:
        self.own.remove(digest)
        self.bank.remove(digest)

    def decode_by_graphs(self, bank: StackedBank, tolerance: float) -> None:
        self.graphs = DecodeGraphs(self._fixed, self.cache, bank, self.device, tolerance)

    def forward(self, rows: StepRows) -> Tensor:
        """Logits (len(rows.logit_rows), vocabulary), as wide as the largest vocabulary in the step, with minus infinity
        beyond a row's own."""
        # A graph holds no parts of an adapter's own.
        if self.graphs is not None and not rows.prompts and not self.own.concern(rows.adapters):
            self.own.rest()
            logits = self.graphs.run(
                rows.tokens, rows.decode, rows.adapters, lambda: self.ordinary(rows, list(range(len(rows.tokens))))
            )
            if logits is not None:
                return logits[rows.logit_rows]
        return self.ordinary(rows, rows.logit_rows)

    def begin(self, adapters: list[str | None], logit_rows: list[int]) -> None:
        """Adapters for the rows of a step, of which the output layer sees `logit_rows`."""
        self.bank.prepare(adapters, logit_rows)
        self.own.prepare(adapters, logit_rows)

    def ordinary(self, rows: StepRows, logit_rows: list[int]) -> Tensor:
        """The same without graphs, for any choice of rows."""
        return self.own.bound(self._unbounded(rows, logit_rows), self.logits)

    def _unbounded(self, rows: StepRows, logit_rows: list[int]) -> Tensor:
        step = StepAttention(self.cache, rows.decode, rows.prompts, self.device, self.native)
        self.begin(rows.adapters, logit_rows)
        output = self.module(
            self.own.lookup(torch.tensor([rows.tokens], device=self.device)),
            position_ids=step.positions[None],
            use_cache=False,
            logits_to_keep=torch.tensor(logit_rows, device=self.device),
            step=step,
        )
        return output.logits[0]

    def reading(self, rows: StepRows, wanted: list[int], tolerance: float) -> tuple[Tensor, Hidden]:
        """As `forward`, and what the decoder gives at the rows `wanted`, of which `logits_of` makes logits.

        Raises EngineError `scoring_unsupported` where the model makes its logits in another way.
        """
        with self.tail.listening() as heard:
            logits = self._unbounded(rows, rows.logit_rows)
        if not self.tail.proven:
            self.tail.prove(self.tail.logits(heard.rows(rows.logit_rows)), logits, tolerance)
        return self.own.bound(logits, self.logits), Hidden(heard.rows(wanted), rows, wanted)

    def logits_of(self, hidden: Hidden, part: slice) -> Tensor:
        """Logits (rows, vocabulary) of some of the rows that `reading` gave."""
        self.begin(hidden.step.adapters, hidden.wanted[part])
        return self.own.bound(self.tail.logits(hidden.values[part]), self.logits)

    def _fixed(self, ids: Tensor, step: SlotAttention) -> Tensor:
        every = torch.arange(step.rows, device=self.device)
        output = self.module(
            ids, position_ids=step.positions[None], use_cache=False, logits_to_keep=every, step=step
        )  # fmt: skip
        return output.logits[0]
