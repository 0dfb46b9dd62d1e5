"""The engine's attention as Transformers calls it, and the mathematics that its forms share.

The function is registered with Transformers' public registry of attention functions, so every architecture that uses
the registry works unchanged. What attends is handed to the model as the keyword `step`: nothing global is involved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from inference.engine.errors import EngineError

from .kv_cache import LayerShape

NAME = "loraportal"
# Arguments that say nothing about the result here. Any other that is not None means mathematics we do not have.
HARMLESS = {
    "position_ids", "cache_position", "output_attentions", "use_cache", "is_causal", "layer_idx", "dropout",
    "position_embeddings", "output_hidden_states", "output_router_logits", "logits_to_keep", "return_dict", "head_mask",
    "num_items_in_batch", "deterministic", "target_dtype",
}  # fmt: skip


def product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None, softcap: float | None) -> Tensor:
    """softmax(q kᵀ · scale + mask) v; with `softcap` c the scores pass through c · tanh(scores / c) (Gemma 2, §2)."""
    if softcap is None:
        return sdpa(q, k, v, attn_mask=mask, scale=scale)
    scores = torch.matmul(q, k.transpose(2, 3)) * (scale if scale is not None else q.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap + mask
    return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), v)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores: nothing where a key is visible, minus infinity elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def causal(start: int, size: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive mask (size, start + size) of a chunk at positions from `start` on."""
    query = torch.arange(start, start + size, device=device)[:, None]
    position = torch.arange(start + size, device=device)[None, :]
    visible = position <= query
    if window is not None:
        visible &= position > query - window
    return additive(visible, dtype)


def decoding(lengths: Tensor, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Additive mask (rows, 1, 1, keys) of rows that see the first `lengths` keys of their slots."""
    position = torch.arange(keys, device=lengths.device)
    visible = position[None, :] < lengths[:, None]
    if window is not None:
        visible &= position[None, :] >= (lengths - window)[:, None]
    return additive(visible, dtype)[:, None, None, :]


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
        mask = causal(0, rows, window, query.dtype, query.device)
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
