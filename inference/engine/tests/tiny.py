"""Tiny random models of several families, and PEFT adapters for them, written as ordinary folders."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 320
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257, "head_dim": 16,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": COMMON,
    "qwen2": COMMON,
    "qwen3": COMMON,
    "mistral": {**COMMON, "sliding_window": 12},
    "gemma": COMMON,
    "gemma2": {**COMMON, "sliding_window": 12, "query_pre_attn_scalar": 16},
    "phi": {**COMMON, "partial_rotary_factor": 0.5},
    "phi3": COMMON,
    "gpt2": {
        "vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256,
        "bos_token_id": 256, "eos_token_id": 257,
    },
    "gpt_neox": {**COMMON, "rotary_pct": 0.5},
    "olmo2": COMMON,
}  # fmt: skip
# Mixtures of experts, whose routers and experts stay as Transformers has them.
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {**COMMON, "num_local_experts": 4},
    "phimoe": {**{k: v for k, v in COMMON.items() if k != "head_dim"}, "num_local_experts": 4},
    "qwen2_moe": {
        **COMMON, "num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    },
}  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, three special ones and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|bos|>", eos_token="<|end|>")
    made.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    made.chat_template = TEMPLATE
    return made


def write_base(
    folder: Path, family: str, seed: int = 0, published: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """A random model of a family with its tokenizer; outputs vary strongly from token to token."""
    torch.manual_seed(seed)
    options = {**FAMILIES[family], **changes}
    config = AutoConfig.for_model(family, **options)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.6 / parameter.shape[-1] ** 0.5 if "embed" not in name else 1.0)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.to(published).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@dataclass
class AdapterRecipe:
    rank: int = 4
    alpha: float = 8
    targets: Any = "all-linear"
    extra: dict[str, Any] = field(default_factory=dict)
    scale: float = 0.3
    seed: int = 1


# Ranks, targets, alphas, rsLoRA and patterns differ, so that a mixed batch mixes everything at once.
RECIPES = {
    "plain": AdapterRecipe(),
    "wide": AdapterRecipe(rank=16, alpha=4, seed=2, extra={"use_rslora": True}),
    "narrow": AdapterRecipe(rank=2, alpha=6, seed=3, scale=0.8),
    "partial": AdapterRecipe(rank=8, alpha=8, seed=4, extra={"layers_to_transform": [1]}),
}


def write_adapter(folder: Path, base: Path, recipe: AdapterRecipe) -> Path:
    from peft import LoraConfig, get_peft_model

    model = copy.deepcopy(_model(base, files_of(base)))
    torch.manual_seed(recipe.seed)
    targets = recipe.targets
    if "layers_to_transform" in recipe.extra and targets == "all-linear":
        targets = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if hasattr(module, "weight")
             and module.weight.ndim == 2 and "embed" not in name and "head" not in name and "wte" not in name
             and "wpe" not in name}
        )  # fmt: skip
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=targets,  # type: ignore[arg-type]
        task_type="CAUSAL_LM",
        init_lora_weights=False, **recipe.extra,
    )  # fmt: skip
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                parameter.normal_(0, recipe.scale)
            elif "lora_A" in name or "lora_embedding_A" in name:
                parameter.normal_(0, recipe.scale / 4)
            elif "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.4 * torch.rand_like(parameter))
            elif parameter.requires_grad:  # biases, saved layers, tokens
                parameter.add_(0.3 * torch.randn_like(parameter))
    wrapped.save_pretrained(str(folder))
    return folder


def files_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells two contents of a folder apart: a test's own folder may take the place of an earlier test's."""
    return tuple(sorted((file.name, file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()))


def peft_model(base: Path, adapter: Path | None) -> Any:
    """The model of Transformers, with PEFT's adapter; read once for the same files."""
    return _peft_model(base, files_of(base), adapter, files_of(adapter) if adapter else None)


@functools.lru_cache(maxsize=8)
def _model(base: Path, base_files: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


@functools.lru_cache(maxsize=64)
def _peft_model(base: Path, base_files: Any, adapter: Path | None, adapter_files: Any) -> Any:
    from peft import PeftModel

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    return model if adapter is None else PeftModel.from_pretrained(model, adapter)


_answers: dict[Any, list[int]] = {}


def reference(base: Path, adapter: Path | None, tokens: list[int], count: int) -> list[int]:
    """Greedy tokens by PEFT's own `generate` in fp32, end-of-text ignored."""
    key = (base, files_of(base), adapter, adapter and files_of(adapter), tuple(tokens), count)
    if key not in _answers:
        with torch.no_grad():
            out = peft_model(base, adapter).generate(
                input_ids=torch.tensor([tokens]), max_new_tokens=count, min_new_tokens=count, do_sample=False
            )
        _answers[key] = out[0, len(tokens) :].tolist()
    return list(_answers[key])


def edit_json(file: Path, **changes: Any) -> None:
    data = json.loads(file.read_text())
    data.update(changes)
    file.write_text(json.dumps(data))
