"""Writers of the trees that trainers leave: HF Trainer, LLaMA-Factory, axolotl, Unsloth, ms-swift; and a tiny base.

Everything is written from scratch: real safetensors, real configs, random but seeded values, no torch.
"""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, KV, INTER, LAYERS, VOCAB = 16, 8, 32, 2, 64
OUT = {"q_proj": HIDDEN, "k_proj": KV, "v_proj": KV, "o_proj": HIDDEN, "gate_proj": INTER, "up_proj": INTER,
       "down_proj": HIDDEN}  # fmt: skip
IN = {name: INTER if name == "down_proj" else HIDDEN for name in OUT}
BLOCK = {name: "mlp" if name in {"gate_proj", "up_proj", "down_proj"} else "self_attn" for name in OUT}
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
BASE_NAME = "Tiny-Llama-0.1M"
HUB_ID = f"tiny/{BASE_NAME}"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def pack(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + len(data)]}
        position += len(data)
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + b"".join(data for _, _, data in tensors.values())


def values(shape: tuple[int, ...], dtype: str = "F32", seed: int = 0, fill: float | None = None) -> bytes:
    """Bytes of a tensor: random, or all `fill`."""
    made = np.random.default_rng(seed).standard_normal(shape).astype("<f4") * 0.1
    if fill is not None:
        made = np.full(shape, fill, dtype="<f4")
    if dtype == "BF16":
        return (made.view("<u4") >> 16).astype("<u2").tobytes()
    return made.astype(DTYPES[dtype]).tobytes()


def module(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{BLOCK[name]}.{name}"


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))


def base_model(
    folder: Path, hidden: int = HIDDEN, layers: int = LAYERS, shards: int = 1, tokenizer: bool = True, **config: Any
) -> Path:
    """A whole model folder of Llama's kind with random weights."""
    scale = hidden // HIDDEN
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": INTER * scale,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "vocab_size": VOCAB,
            "tie_word_embeddings": True,
        }
        | config,
    )
    tensors: Tensors = {"model.embed_tokens.weight": ("BF16", (VOCAB, hidden), values((VOCAB, hidden), "BF16"))}
    for layer in range(layers):
        for name, out in OUT.items():
            shape = (out * scale, IN[name] * scale)
            tensors[f"{module(layer, name)}.weight"] = ("BF16", shape, values(shape, "BF16", layer))
        norm = f"model.layers.{layer}.input_layernorm.weight"
        tensors[norm] = ("BF16", (hidden,), values((hidden,), "BF16"))
    if shards == 1:
        (folder / "model.safetensors").write_bytes(pack(tensors))
    else:
        names = list(tensors)
        table = {}
        for shard in range(shards):
            file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: tensors[name] for name in names[shard::shards]}
            (folder / file).write_bytes(pack(part))
            table.update(dict.fromkeys(part, file))
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": table})
    if tokenizer:
        write_json(folder / "tokenizer.json", {"version": "1.0"})
        write_json(folder / "tokenizer_config.json", {"chat_template": TEMPLATE})
    return folder


def config(**changes: Any) -> dict[str, Any]:
    """What PEFT writes for a LoRA on q_proj and v_proj."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": HUB_ID,
        "bias": "none",
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 8,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": 4,
        "rank_pattern": {},
        "revision": None,
        "target_modules": ["q_proj", "v_proj"],
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    } | changes


def lora_tensors(
    rank: int = 4,
    targets: tuple[str, ...] = ("q_proj", "v_proj"),
    layers: int = LAYERS,
    dtype: str = "F32",
    seed: int = 0,
    hidden: int = HIDDEN,
    b_fill: float | None = None,
) -> Tensors:
    """The pairs that PEFT saves for these modules."""
    scale = hidden // HIDDEN
    made: Tensors = {}
    for layer in range(layers):
        for number, name in enumerate(targets):
            stem = f"base_model.model.{module(layer, name)}"
            a, b = (rank, IN[name] * scale), (OUT[name] * scale, rank)
            made[f"{stem}.lora_A.weight"] = (dtype, a, values(a, dtype, seed * 100 + layer * 10 + number))
            made[f"{stem}.lora_B.weight"] = (dtype, b, values(b, dtype, seed * 100 + number + 5, b_fill))
    return made


def adapter(folder: Path, tensors: Tensors | None = None, seed: int = 0, **changes: Any) -> Path:
    """An adapter folder as `save_pretrained` leaves it."""
    write_json(folder / "adapter_config.json", config(**changes))
    (folder / "adapter_model.safetensors").write_bytes(pack(lora_tensors(seed=seed) if tensors is None else tensors))
    (folder / "README.md").write_text(f"---\nbase_model: {HUB_ID}\nlibrary_name: peft\n---\n\n# Card\n")
    return folder


def trainer_state(step: int, best: int | None = None, run: str = "run", every: int = 10) -> dict[str, Any]:
    """trainer_state.json of HF's Trainer at `step`."""
    history: list[dict[str, Any]] = []
    for at in range(every, step + 1, every):
        history.append({"epoch": at / 50, "grad_norm": 1.0, "learning_rate": 1e-4, "loss": 3 / at, "step": at})
        history.append({"epoch": at / 50, "eval_loss": abs(at - (best or step)) + 1.0, "step": at})
    return {
        "best_global_step": best,
        "best_metric": 1.0 if best else None,
        "best_model_checkpoint": f"/somewhere/else/{run}/checkpoint-{best}" if best else None,
        "epoch": step / 50,
        "global_step": step,
        "log_history": history,
        "max_steps": step,
        "num_train_epochs": 3,
        "train_batch_size": 4,
    }


def checkpoint(folder: Path, step: int, seed: int = 0, best: int | None = None, **changes: Any) -> Path:
    """`checkpoint-N` with everything that Trainer puts beside the adapter."""
    adapter(folder, seed=seed, **changes)
    write_json(folder / "trainer_state.json", trainer_state(step, best, folder.parent.name))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"\x80\x02not for unpickling" + os.urandom(8))
    return folder


def hf_run(root: Path, name: str, steps: tuple[int, ...] = (10, 20, 100), best: int | None = 20) -> Path:
    """HF Trainer: numbered checkpoints and the final adapter, equal to the last checkpoint."""
    run = root / name
    for step in steps:
        checkpoint(run / f"checkpoint-{step}", step, seed=step, best=best if best and best <= step else None)
    adapter(run, seed=steps[-1])
    (run / "training_args.bin").write_bytes(b"\x80\x02nothing to load")
    return run


def llama_factory_run(root: Path, name: str) -> Path:
    """LLaMA-Factory: logs and plots on the run's level; PiSSA beside its converted form."""
    run = hf_run(root, name, (50, 100), None)
    lines = [{"current_steps": s, "total_steps": 100, "loss": 2.0 - s / 100, "lr": 1e-4, "epoch": s / 50} for s in
             range(10, 101, 10)]  # fmt: skip
    (run / "trainer_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "training_args.yaml").write_text("dataset: alpaca_zh\nstage: sft\n")
    write_json(run / "all_results.json", {"train_loss": 1.2, "epoch": 2.0})
    (run / "training_loss.png").write_bytes(b"\x89PNG")
    return run


def pissa_run(root: Path, name: str) -> Path:
    run = adapter(root / name, init_lora_weights="pissa")
    adapter(run / "pissa_init", init_lora_weights="pissa")
    adapter(run / "pissa_backup", init_lora_weights="pissa")
    adapter(run / "pissa_converted", lora_tensors(rank=8), r=8)
    return run


def axolotl_run(root: Path, name: str, finished: bool = True) -> Path:
    """axolotl: config files before training starts; `merged/` is a full model."""
    run = root / name
    write_json(run / "adapter_config.json", config())
    write_json(run / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    write_json(run / "tokenizer.json", {})
    checkpoint(run / "checkpoint-25", 25)
    if finished:
        adapter(run, seed=9)
        base_model(run / "merged")
    return run


def unsloth_run(root: Path, name: str) -> Path:
    """Unsloth: a 4-bit base's name, a half-saved checkpoint under a temporary name."""
    run = root / name
    base = f"unsloth/{BASE_NAME}-bnb-4bit"
    checkpoint(run / "checkpoint-30", 30, base_model_name_or_path=base, unsloth_fixed=True)
    adapter(run / ".tmp-checkpoint-60", base_model_name_or_path=base)
    adapter(run / "lora_model", base_model_name_or_path=base)
    return run


def ms_swift_run(root: Path, name: str) -> Path:
    """ms-swift: `<model>/v0-<date>/checkpoint-N` with args.json; `-merged` is a full model."""
    run = root / name / "v0-20251120-031210"
    for step in (40, 80):
        folder = checkpoint(run / f"checkpoint-{step}", step, seed=step)
        write_json(folder / "args.json", {"model": HUB_ID, "dataset": ["self-cognition#500"], "lora_rank": 4})
    write_json(run / "args.json", {"model": HUB_ID, "dataset": ["self-cognition#500"]})
    (run / "logging.jsonl").write_text("")
    base_model(run / "checkpoint-80-merged")
    return run


def age(folder: Path, seconds: float = 3600) -> Path:
    """Make everything below look as if it was written `seconds` ago."""
    then = time.time() - seconds
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then), follow_symlinks=False)
    return folder
