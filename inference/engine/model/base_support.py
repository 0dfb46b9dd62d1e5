"""Can the engine serve a base exactly? What the structure alone says, with or without weights.

The same look serves twice: on the loaded model, and, when a base is registered, on one of the meta device, which has
shapes and no numbers (`base_probe.py`). What only numbers show (`loaded_base.check_exact`) is found at the first load.
"""

from __future__ import annotations

import inspect

import torch
from transformers import AttentionInterface, PreTrainedModel

from inference.engine.errors import EngineError

from . import linear
from .attention import NAME, ShapeProbe, attention_function
from .kv_cache import LayerShape

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
AttentionInterface.register(NAME, attention_function)


def refused(name: str, reason: str) -> EngineError:
    return EngineError("base_unsupported", f"{name} cannot be served exactly: {reason}.", reason=reason)


def check_interface(model: PreTrainedModel, name: str) -> None:
    """Raises EngineError `base_unsupported` where the class does not let the engine put in its own attention."""
    parameters = inspect.signature(model.forward).parameters
    if "logits_to_keep" not in parameters or not getattr(model, "_supports_attention_backend", False):
        raise refused(name, f"{type(model).__name__} does not use Transformers' attention interface")
    # Other kinds would come to the attention function as a mask, which the engine makes itself from what it knows.
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - KNOWN_LAYERS
    if kinds:
        raise refused(name, f"it has layers of the kind {', '.join(sorted(kinds))}")


def trace_layers(
    model: PreTrainedModel, name: str, tokens: list[int]
) -> tuple[linear.ProbedLayers, dict[int, LayerShape]]:
    """Run once over `tokens` by the engine's attention: which linear layers there are and what each attention keeps.

    Raises EngineError `base_unsupported` where a layer is not attention over keys and values, or uses mathematics that
    ours does not have. Leaves the model with the engine's attention.
    """
    model.set_attn_implementation(NAME)
    device = model.device
    shapes = ShapeProbe()
    ids = torch.tensor([tokens], device=device)
    wanted = torch.tensor([len(tokens) - 1], device=device)
    positions = torch.arange(len(tokens), device=device)[None]
    seen = linear.trace(
        model, lambda: model(ids, position_ids=positions, use_cache=False, logits_to_keep=wanted, step=shapes)
    )
    layers = model.config.get_text_config().num_hidden_layers
    if len(shapes.shapes) != layers or shapes.calls != layers:
        raise refused(name, "not every layer is attention over keys and values")
    return seen, shapes.shapes
