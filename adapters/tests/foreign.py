"""Adapters as other tools and broken runs leave them, made from a properly named one: `CASES` writes each.

A case takes the tensors and the config that PEFT would have written and leaves the folder that the tool leaves. The
sources of the formats are named in `adapters/validation/repair/`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adapters.tests import layouts as make
from adapters.tests.layouts import Tensors

PREFIX = "base_model.model."
HEADS, KV_HEADS = 4, 2  # of the tiny bases
TO_TUNE = {
    "self_attn.q_proj": "attn.q_proj", "self_attn.k_proj": "attn.k_proj", "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.output_proj", "mlp.gate_proj": "mlp.w1", "mlp.down_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w3",
}  # fmt: skip
TO_MISTRAL = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}  # fmt: skip
Config = dict[str, Any]
Entry = tuple[str, tuple[int, ...], bytes]


def array(entry: Entry) -> np.ndarray[Any, Any]:
    dtype, shape, data = entry
    return np.frombuffer(data, make.DTYPES[dtype]).reshape(shape)


def packed(matrix: np.ndarray[Any, Any], like: Entry) -> Entry:
    return like[0], matrix.shape, np.ascontiguousarray(matrix).tobytes()


def save(folder: Path, tensors: Tensors, config: Config, name: str = "adapter_model.safetensors") -> None:
    make.write_json(folder / "adapter_config.json", config)
    (folder / name).write_bytes(make.pack(tensors))


def renamed(tensors: Tensors, rename: Callable[[str], str]) -> Tensors:
    return {rename(name): entry for name, entry in tensors.items()}


def compiled(folder: Path, tensors: Tensors, config: Config) -> None:
    """torch.compile(model) before PEFT saved it."""
    save(folder, renamed(tensors, lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod.")), config)


def named(folder: Path, tensors: Tensors, config: Config) -> None:
    """`model.state_dict()` of a PEFT model in memory, saved as it is."""
    save(folder, renamed(tensors, lambda name: name.replace(".weight", ".default.weight")), config)


def bare(folder: Path, tensors: Tensors, config: Config) -> None:
    """The names of the base's own modules."""
    save(folder, renamed(tensors, lambda name: name.removeprefix(PREFIX)), config)


def too_deep(folder: Path, tensors: Tensors, config: Config) -> None:
    """Trained inside a multimodal model, of which the base here is the text model."""
    deeper = renamed(tensors, lambda name: name.replace("model.layers.", "model.language_model.layers."))
    save(folder, deeper, {**config, "target_modules": r"model\.language_model\..*_proj"})


def modules(tensors: Tensors) -> list[str]:
    return sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in tensors})


def mlx(folder: Path, tensors: Tensors, config: Config) -> None:
    """`mlx_lm.lora`: factors transposed, its own config."""
    made = {}
    for name, entry in tensors.items():
        stem, _, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        made[f"{stem}.lora_{side.lower()}"] = packed(array(entry).T, entry)
    keys = sorted({name.split(".", 3)[3] for name in modules(tensors)})
    scale = config["lora_alpha"] / config["r"]
    said = {
        "adapter_path": "adapters", "batch_size": 4, "data": "data", "fine_tune_type": "lora", "iters": 100,
        "lora_parameters": {"rank": config["r"], "scale": scale, "dropout": 0.0, "keys": keys},
        "model": config["base_model_name_or_path"], "num_layers": 2, "optimizer": "adam", "seed": 0,
    }  # fmt: skip
    save(folder, made, said, "adapters.safetensors")


def pairs(matrix: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows in the order of a model that rotates pairs of neighbours (torchtune's `hf_to_tune`)."""
    rows, rank = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, rank).transpose(0, 2, 1, 3).reshape(rows, rank)


def meta(tensors: Tensors, names: dict[str, str], sides: dict[str, str]) -> Tensors:
    made = {}
    for name, entry in tensors.items():
        stem, _, side = name.removeprefix(f"{PREFIX}model.").removesuffix(".weight").rpartition(".lora_")
        _, layer, rest = stem.split(".", 2)
        matrix = array(entry)
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(rest.rpartition(".")[2])
        if side == "B" and heads:
            matrix = pairs(matrix, heads)
        made[f"layers.{layer}.{names[rest]}.{sides[side]}.weight"] = packed(matrix, entry)
    return made


def torchtune(folder: Path, tensors: Tensors, config: Config) -> None:
    targets = [TO_TUNE[name].rpartition(".")[2] for name in {module.split(".", 3)[3] for module in modules(tensors)}]
    made = meta(tensors, TO_TUNE, {"A": "lora_a", "B": "lora_b"})
    save(folder, made, {**config, "target_modules": sorted(targets)})


def mistral(folder: Path, tensors: Tensors, config: Config) -> None:
    targets = [TO_MISTRAL[name].rpartition(".")[2] for name in {module.split(".", 3)[3] for module in modules(tensors)}]
    made = meta(tensors, TO_MISTRAL, {"A": "lora_A", "B": "lora_B"})
    save(folder, made, {**config, "target_modules": sorted(targets)}, "lora.safetensors")


def megatron(folder: Path, tensors: Tensors, config: Config) -> None:
    """Megatron Core modules under PEFT's own keys. Needs `shared` tensors."""
    made: Tensors = {}
    for layer in sorted({int(name.split(".")[4]) for name in tensors}):
        stem = f"{PREFIX}model.layers.{layer}"

        def b(name: str, stem: str = stem) -> Any:
            return tensors[f"{stem}.{name}.lora_B.weight"]

        q, k, v = (array(b(f"self_attn.{kind}_proj")) for kind in "qkv")
        groups = [part.reshape(KV_HEADS, -1, part.shape[1]) for part in (q, k, v)]
        qkv = np.concatenate(groups, axis=1).reshape(-1, q.shape[1])
        fc1 = np.concatenate([array(b("mlp.gate_proj")), array(b("mlp.up_proj"))])
        like = b("self_attn.q_proj")
        target = f"{PREFIX}decoder.layers.{layer}"
        for name, source, matrix in (
            ("self_attention.linear_qkv", "self_attn.q_proj", qkv), ("mlp.linear_fc1", "mlp.gate_proj", fc1),
        ):  # fmt: skip
            made[f"{target}.{name}.lora_A.weight"] = tensors[f"{stem}.{source}.lora_A.weight"]
            made[f"{target}.{name}.lora_B.weight"] = packed(matrix, like)
    more = {"target_modules": ["linear_qkv", "linear_fc1"], "megatron_config": {"tensor_model_parallel_size": 1}}
    save(folder, made, {**config, **more})


def nemo(folder: Path, tensors: Tensors, config: Config) -> None:
    """The same layers by the names of NeMo's own adapters."""
    megatron(folder, tensors, config)
    path = folder / "adapter_model.safetensors"
    made: Tensors = {}
    for name, entry in unpacked(path).items():
        stem, _, side = name.removeprefix(f"{PREFIX}").removesuffix(".weight").rpartition(".lora_")
        made[f"module.{stem}.adapter.linear_{'in' if side == 'A' else 'out'}.weight"] = entry
    path.write_bytes(make.pack(made))


def unpacked(path: Path) -> Tensors:
    """What `make.pack` packed."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    found: Tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = (entry["dtype"], tuple(entry["shape"]), data[start:stop])
    return found


def shared(seed: int = 0, write: Callable[..., Tensors] = make.lora_tensors) -> Tensors:
    """A LoRA whose Q, K and V have one A matrix, and so have gate and up projection, as Megatron trains it."""
    targets = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    made = write(targets=targets, seed=seed)
    for name in list(made):
        for kind, first in (("self_attn.", "self_attn.q_proj"), ("mlp.", "mlp.gate_proj")):
            head, mark, _ = name.partition(kind)
            if mark and name.endswith("lora_A.weight"):
                made[name] = made[f"{head}{first}.lora_A.weight"]
    return made


def sharded(folder: Path, tensors: Tensors, config: Config) -> None:
    names = list(tensors)
    table = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        file = f"adapter_model-{number + 1:05d}-of-00002.safetensors"
        part = {name: tensors[name] for name in names[number::2]}
        (folder / file).write_bytes(make.pack(part))
        table.update(dict.fromkeys(part, file))
    make.write_json(folder / "adapter_model.safetensors.index.json", {"metadata": {}, "weight_map": table})
    make.write_json(folder / "adapter_config.json", config)


def whole(folder: Path, tensors: Tensors, config: Config) -> None:
    """`model.state_dict()` with the layers that PEFT has wrapped; of the base that `registry` has."""
    made = renamed(tensors, lambda name: name.replace(".weight", ".default.weight"))
    for layer in range(make.LAYERS):
        shape = (make.OUT["q_proj"], make.IN["q_proj"])
        name = f"{PREFIX}{make.module(layer, 'q_proj')}.base_layer.weight"
        made[name] = ("BF16", shape, make.values(shape, "BF16", layer))
    save(folder, made, config)


def pickled(tensors: Tensors, wrap: Callable[[dict[str, Any]], Any] = lambda found: found) -> bytes:
    import torch

    found = {name: torch.from_numpy(array(entry).copy()) for name, entry in tensors.items()}
    buffer = io.BytesIO()
    torch.save(wrap(found), buffer)
    return buffer.getvalue()


def compiled_pickle(folder: Path, tensors: Tensors, config: Config) -> None:
    """Old PEFT and torch.compile: the names are known when the file was converted, not before."""
    made = renamed(tensors, lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod."))
    make.write_json(folder / "adapter_config.json", config)
    (folder / "adapter_model.bin").write_bytes(pickled(made))


SHARED = {"megatron", "nemo"}  # cases that take the tensors of `shared`
CASES: dict[str, tuple[Callable[[Path, Tensors, Config], None], list[str]]] = {
    "compiled": (compiled, ["keys_wrapped"]),
    "named": (named, ["keys_adapter_name"]),
    "bare": (bare, ["keys_prefix"]),
    "too_deep": (too_deep, ["keys_prefix"]),
    "mlx": (mlx, ["format_mlx"]),
    "torchtune": (torchtune, ["format_torchtune"]),
    "mistral": (mistral, ["format_mistral"]),
    "megatron": (megatron, ["format_megatron"]),
    "nemo": (nemo, ["format_megatron"]),
    "sharded": (sharded, ["weights_sharded"]),
    "whole": (whole, ["keys_adapter_name", "keys_of_base"]),
}


def old_config() -> Config:
    """What PEFT 0.3 wrote."""
    return {
        "base_model_name_or_path": make.HUB_ID, "bias": "none", "enable_lora": None, "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "lora_alpha": 8, "lora_dropout": 0.05,
        "merge_weights": False, "modules_to_save": None, "peft_type": "LORA", "r": 4,
        "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
