"""Loading a base model's folder: offline, without remote code, with real progress."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from inference.engine.errors import EngineError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "nf4": torch.bfloat16}
# Rotary embeddings that change with the longest sequence of a batch: beyond their original length, one conversation
# would change the answers of another, so none may go there.
SWITCHING_ROPE = {"longrope", "dynamic"}
NF4_BYTES = 0.53  # a weight in NF4 with double quantisation (Dettmers et al. 2023): 4 bits and 0.127 of constants


def weight_counts(folder: Path) -> tuple[int, int]:
    """(numbers in matrices that NF4 would quantise, other numbers) by the safetensors headers, nothing loaded."""
    matrices = others = 0
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(min(size, 64 * 2**20)))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            count = 1
            for dimension in entry["shape"]:
                count *= dimension
            if len(entry["shape"]) == 2 and "embed" not in name and "lm_head" not in name and "wte" not in name:
                matrices += count
            else:
                others += count
    return matrices, others


def positions(folder: Path) -> int:
    """Tokens of context that the model was made for, by its config.json; a billion where it says nothing."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError("base_load_failed", f"config.json of {folder.name} cannot be read.") from error
    text = config.get("text_config") or config
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    value = text.get("max_position_embeddings") or text.get("n_positions")
    if isinstance(rope, dict) and (rope.get("rope_type") or rope.get("type")) in SWITCHING_ROPE:
        value = text.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or value
    return value if isinstance(value, int) and value > 0 else 10**9


def needed_bytes(folder: Path, device: str) -> dict[str, int]:
    """Bytes of the weights by precision."""
    matrices, others = weight_counts(folder)
    small = 4 if device == "cpu" else 2
    return {
        "fp32": 4 * (matrices + others),
        "bf16": 2 * (matrices + others),
        "nf4": int(NF4_BYTES * matrices) + small * others,
    }


class LoadProgress:
    """Stands in for the bar that Transformers draws over the weights it loads, and reports how far it is."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.report = report

    def hook(self, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs["disable"] = True
        bar = factory(*args, **kwargs)
        items = args[0] if args else kwargs.get("iterable")
        if items is None:
            return bar
        total = len(items) if hasattr(items, "__len__") else 0

        def counted() -> Any:
            for done, item in enumerate(items):
                if total and done % 8 == 0:
                    self.report(done / total)
                yield item

        return counted()


def load_model(folder: Path, precision: str, device: torch.device, report: Callable[[float], None]) -> PreTrainedModel:
    """The model in evaluation mode on `device`.

    Raises EngineError `base_load_failed`, `base_unsupported` or `out_of_memory`.
    """
    options: dict[str, Any] = {"dtype": DTYPES[precision]}
    if precision == "nf4":
        compute = torch.bfloat16 if device.type == "cuda" else torch.float32
        options["dtype"] = compute
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    previous = hf_logging.set_tqdm_hook(LoadProgress(report).hook)
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            attn_implementation="eager", device_map={"": device}, **options,
        ).eval()  # fmt: skip
    except torch.cuda.OutOfMemoryError as error:
        raise EngineError("out_of_memory", "The card's memory ran out while the base was loading.") from error
    except MemoryError as error:
        raise EngineError("out_of_memory", "Memory ran out while the base was loading.") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        line = str(error).strip().split("\n", 1)[0].replace(str(folder), folder.name)
        raise EngineError("base_load_failed", f"The base model could not be loaded: {line}", reason=line) from error
    finally:
        hf_logging.set_tqdm_hook(previous)


def load_tokenizer(folder: Path) -> Any:
    """The base's tokenizer. Raises EngineError `base_load_failed`."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        line = str(error).strip().split("\n", 1)[0].replace(str(folder), folder.name)
        raise EngineError("base_load_failed", f"The base's tokenizer could not be read: {line}", reason=line) from error
