"""Loading a base model's folder: offline, without remote code, with real progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from inference.engine.errors import EngineError
from inference.engine.faults import ENDS_PROCESS, LONGEST_REASON, one_line, unforeseen
from inference.engine.model.weights import complaint, header

from .base_support import refused

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16, "nf4": torch.bfloat16}
# Rotary embeddings that change with the longest sequence of a batch: beyond their original length, one conversation
# would change the answers of another, so none may go there.
SWITCHING_ROPE = {"longrope", "dynamic"}
# A weight in NF4 with double quantisation (Dettmers et al. 2023): 4 bits, 8 for 64 weights, 32 for 64 * 256.
# `adapters/bases/registry.py` has the same.
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


def weight_counts(folder: Path) -> tuple[int, int]:
    """(numbers in matrices that int8 and NF4 would quantise, others) by the safetensors headers, nothing loaded."""
    matrices = others = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, entry in header(file).items():
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
        "int8": matrices + small * others,
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


def quantisation(precision: str, compute: torch.dtype) -> BitsAndBytesConfig:
    """As people have it who load a base with bitsandbytes: LLM.int8() with its usual threshold, NF4 as in QLoRA."""
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def load_model(folder: Path, precision: str, device: torch.device, report: Callable[[float], None]) -> PreTrainedModel:
    """The model in evaluation mode on `device`.

    Raises EngineError `base_unsupported` where not every number of it is from the files, and whatever Transformers
    raises (see `load_error`).
    """
    options: dict[str, Any] = {"dtype": DTYPES[precision]}
    if precision in ("int8", "nf4"):
        options["dtype"] = torch.bfloat16 if device.type == "cuda" else torch.float32
        options["quantization_config"] = quantisation(precision, options["dtype"])
    previous = hf_logging.set_tqdm_hook(LoadProgress(report).hook)
    loaded: Any  # (model, report): the library's annotations leave the report out
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            attn_implementation="eager", device_map={"": device}, output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below by name, where Transformers only says that there are some
            **options,
        )  # fmt: skip
    finally:
        hf_logging.set_tqdm_hook(previous)
    model: PreTrainedModel = loaded[0]
    if reason := complaint(loaded[1], model.config):
        raise refused(folder.name, reason)
    return model.eval()


def ran_out_of_memory(error: BaseException) -> bool:
    # PyTorch has no type for a failed allocation on the CPU.
    said = str(error)
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return full or (
        isinstance(error, RuntimeError) and ("not enough memory" in said or "can't allocate memory" in said)
    )


def load_error(error: BaseException, folder: Path) -> EngineError:
    """What ends a load that raised `error`.

    A file that could not be read, a missing package and a lack of memory pass; they are foreseen, and the next load may
    succeed. Anything else an architecture's own code may raise.
    """
    if ran_out_of_memory(error):
        return EngineError("out_of_memory", "Memory ran out while the base was loading.")
    if isinstance(error, OSError | ImportError):
        line = without_path(str(error), folder)
        return EngineError("base_load_failed", f"The base model could not be loaded: {line}", reason=line)
    made = unforeseen(error, "base_load_failed")
    made.detail["reason"] = without_path(made.detail["reason"], folder)
    return made


def without_path(text: str, folder: Path) -> str:
    """The first line of a message, without the server's folder and bounded."""
    return text.strip().split("\n", 1)[0].replace(str(folder), folder.name).rstrip(".")[:LONGEST_REASON]


def load_tokenizer(folder: Path) -> Any:
    """The base's tokenizer.

    Raises EngineError `base_unsupported` where its files say something that the installed libraries do not understand,
    `base_load_failed` where they could not be read.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ENDS_PROCESS:
        raise
    except BaseException as error:  # noqa: BLE001  (tokenizers raises bare exceptions, and panics are not even those)
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            line = without_path(str(error), folder)
            raise EngineError(
                "base_load_failed", f"The base's tokenizer could not be read: {line}", reason=line
            ) from error
        raise refused(folder.name, f"its tokenizer cannot be read ({without_path(one_line(error), folder)})") from error
