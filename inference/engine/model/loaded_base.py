"""A base model on its way into memory, and what it is there: model, slots, bank, tokenizer, probe."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.engine import content
from inference.engine.config import EngineConfig
from inference.engine.lora.bank import Kind, LoraBank
from inference.engine.lora.own import OwnRows
from inference.engine.lora.proof import PROBE_LIMIT, Prober, probe_tokens
from inference.engine.lora.segment_bank import SegmentBank
from inference.engine.lora.stacked_bank import StackedBank
from inference.engine.native.library import Native, native_library
from inference.engine.protocol import BaseSpec
from inference.engine.runner_interface import BaseInfo, OnProgress
from inference.engine.text.added_tokens import Added, with_added

from . import base_loader, linear, mapped, memory, norms, own_parts
from .base_support import check_interface, refused, trace_layers
from .hardware import Hardware
from .kv_cache import KVCache
from .renaming import earlier_names
from .slot_model import SlotModel
from .step_rows import StepRows
from .token_text import TokenText
from .weights import stored_shapes

RESERVE = 512 * 2**20  # bytes kept free for activations and the tokenizer
PROBE = 12  # tokens of the run that traces the linear layers
# How far our logits may lie from the model's own, relative to the largest: rounding, not mathematics. LLM.int8()
# rounds what goes into each layer to 127 steps: a last bit may cost a step in all that follow (measured: 0.064).
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "int8": 2e-1, "nf4": 5e-2}
NO_EFFECT = {"fp32": 1e-5, "bf16": 4e-3, "int8": 4e-3, "nf4": 4e-3}
# Here a row's numbers depend on the rows beside it: LLM.int8() keeps a column of all of them out of the eight bits
# where one has an outlier in it. So no text is cut into chunks, and nobody is served in it (`gateway/apart.py`).
WHOLE = {"int8"}
Texts = WeakValueDictionary[tuple[tuple[Added, ...], int], TokenText]


@dataclass
class LoadedBase:
    """`parts`: what adapters may change. `idle`: linear layers that no text enters. `earlier_names`: what adapters of
    an earlier release call them."""

    info: BaseInfo
    model: SlotModel
    text: TokenText
    prober: Prober
    parts: own_parts.Parts
    idle: frozenset[str]
    earlier_names: dict[str, str]
    texts: Texts = field(default_factory=WeakValueDictionary)  # of adapters that are resident; many may share one

    def text_of(self, added: tuple[Added, ...], logits: int, name: str) -> TokenText | None:
        """Of an adapter that adds these tokens and has so many logits; None where it is the base's. Touches nothing
        that a step uses. Raises EngineError as `with_added` does."""
        if not added and logits == self.text.logits:
            return None
        made = self.texts.get((added, logits))
        if made is None:
            tokenizer = with_added(self.text.tokenizer, added, name) if added else self.text.tokenizer
            made = self.texts[added, logits] = TokenText(tokenizer, logits)
        return made


def load(spec: BaseSpec, config: EngineConfig, hardware: Hardware, progress: OnProgress) -> LoadedBase:
    """Raises EngineError, and whatever the base's files and its architecture's code raise (see `load_error`)."""
    folder = Path(spec["path"])
    content.check_base(spec)
    needed = base_loader.needed_bytes(folder, hardware.device.type)
    precision = precision_for(spec.get("precision") or config.precision, hardware, needed["bf16"])
    hardware.take()
    memory.check_base(spec["name"], needed, precision, hardware.free_bytes(), RESERVE)
    with content.unchanged(spec):
        tokenizer = base_loader.load_tokenizer(folder)
        progress("weights", 0.0)
        module = base_loader.load_model(folder, precision, hardware.device, lambda done: progress("weights", done))
        mapped.detach(module)
        context = min(config.max_context, base_loader.positions(folder))
        earlier = earlier_names(module, stored_shapes(folder))
    return take_in(spec, module, tokenizer, precision, context, earlier, config, hardware, progress)


def precision_for(asked: str, hardware: Hardware, bytes_in_bf16: int) -> str:
    if asked != "auto":
        return asked
    if not hardware.cuda:
        return "fp32"
    return "bf16" if bytes_in_bf16 + 2 * RESERVE <= hardware.free_bytes() * 0.75 else "nf4"


def take_in(
    spec: BaseSpec, module: PreTrainedModel, tokenizer: Any, precision: str, context: int, earlier: dict[str, str],
    config: EngineConfig, hardware: Hardware, progress: OnProgress,
) -> LoadedBase:  # fmt: skip
    """Put the engine's layers and attention in the place of the model's own, and prove them equal."""
    check_interface(module, spec["name"])
    device = hardware.device
    embeddings: Any = module.get_input_embeddings()
    dtype: torch.dtype = embeddings.weight.dtype
    vocabulary = int(embeddings.weight.shape[0])
    probe, first = probe_tokens(tokenizer, PROBE_LIMIT, vocabulary)
    # As Transformers runs it, before anything is replaced
    reference = module(torch.tensor([probe], device=device), use_cache=False).logits[0].float()
    with own_parts.watching(module, len(probe[:PROBE])) as watched:
        seen, shapes = trace_layers(module, spec["name"], probe[:PROBE])
    embedding = own_parts.path_of(module, embeddings)
    head = own_parts.path_of(module, linear.output_layer(module))
    tied = own_parts.tied(module)
    native = native_kernels(config, hardware, dtype)
    kinds: dict[str, Kind] = {}
    stacked = StackedBank(kinds, device, dtype)
    bank: LoraBank = stacked if native is None else SegmentBank(kinds, native)
    own = OwnRows(module, device)
    installed = linear.install(
        module, seen, len(probe[:PROBE]), 1, bank, own, native, lambda done: progress("packing", done)
    )  # fmt: skip
    if native is not None:
        norms.install(module, native)
    size = installed.bytes + sum(parameter.nbytes for parameter in module.parameters())
    idle = linear.idle(module, seen)
    parts = own_parts.Parts(
        installed.places, kinds, installed.groups, {path: module.get_submodule(path) for path in watched.paths},
        embedding if embedding in watched.paths else "", head if head in installed.places else "", tied, native, device,
        dtype, reference.shape[-1], watched.of_ids == {embedding}, max(probe),
    )  # fmt: skip
    own.vocabulary(parts.embedding, parts.head, vocabulary)
    del seen
    gc.collect()
    free = max(0, hardware.free_bytes() - config.adapter_bytes)
    if not hardware.cuda:
        free //= 2  # the rest of the machine lives here too
    per_token = KVCache.bytes_per_token(shapes, dtype)
    plan = memory.plan_kv(per_token, context, config.max_batch, free, config.kv_bytes, RESERVE)
    cache = KVCache(shapes, plan.slots + 1, plan.context, device, dtype)
    model = SlotModel(module, cache, bank, own, device, native, reference.shape[-1])
    prober = Prober(probe, first, reference[first:], NO_EFFECT[precision])
    check_exact(model, spec["name"], probe, reference, TOLERANCE[precision], precision in WHOLE)
    if hardware.graphs and native is None:
        model.decode_by_graphs(stacked, TOLERANCE[precision])
    info = BaseInfo(
        spec["key"], spec["name"], precision, plan.context, plan.slots,
        end_of_text(module, tokenizer, reference.shape[-1]), size, plan.kv_bytes, vocabulary,
    )  # fmt: skip
    text = TokenText(tokenizer, reference.shape[-1])
    return LoadedBase(info, model, text, prober, parts, idle, earlier)


def native_kernels(config: EngineConfig, hardware: Hardware, dtype: torch.dtype) -> Native | None:
    """The native kernels, where they serve: in fp32 on a CPU with a compiler."""
    if not config.native or hardware.cuda or dtype != torch.float32:
        return None
    return native_library(str(Path(config.run_dir) / "native") if config.run_dir else "")


def check_exact(
    model: SlotModel, name: str, tokens: list[int], reference: Tensor, tolerance: float, whole: bool = False
) -> None:
    """The probe again through slots, chunks and packed weights must give the model's own logits. `whole`: uncut."""
    half, last = len(tokens) // 2, len(tokens) - 1
    if whole:
        rows = StepRows()
        rows.add_chunk(tokens, None, model.probe_slot, 0, range(len(tokens)))
        return compare(name, model.forward(rows).float(), reference, tolerance)
    steps = [StepRows(), StepRows(), StepRows()]
    steps[0].add_chunk(tokens[:half], None, model.probe_slot, 0, [half - 1])
    steps[1].add_chunk(tokens[half:last], None, model.probe_slot, half, range(half, last))
    steps[2].add_decoding(tokens[last], None, model.probe_slot, len(tokens))
    compare(name, torch.cat([model.forward(rows) for rows in steps][1:]).float(), reference[half:], tolerance)


def compare(name: str, ours: Tensor, reference: Tensor, tolerance: float) -> None:
    """Raises EngineError `base_unsupported`."""
    gap = float((ours - reference).abs().max()) / max(1e-9, float(reference.abs().max()))
    if not gap <= tolerance:
        raise refused(name, f"its logits differ by {gap:.1e} when computed by slots")


def end_of_text(module: PreTrainedModel, tokenizer: Any, logits: int) -> frozenset[int]:
    """The ids that end an answer. One beyond the `logits` of a position is never drawn, and none may be banned."""
    ids: list[Any] = []
    for source in (getattr(module, "generation_config", None), module.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        ids += value if isinstance(value, list) else [value]
    return frozenset(item for item in ids if type(item) is int and 0 <= item < logits)
