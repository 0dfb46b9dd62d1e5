"""The old design: Transformers and PEFT as the documentation shows them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

RANKS = (8, 16, 8, 32)
logging.disable_progress_bar()
logging.set_verbosity_error()


def write_adapters(base: Path, folder: Path, count: int) -> list[Path]:
    """Random adapters on all seven linears, ranks 8/16/8/32 in turn."""
    made = []
    for index in range(count):
        torch.manual_seed(index)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        rank = RANKS[index % 4]
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        wrapped = get_peft_model(model, config)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.data.mul_(0.1)
        wrapped.save_pretrained(str(folder / f"a{index}"))
        made.append(folder / f"a{index}")
    return made


class PeftSide:
    def __init__(self, base: Path, adapters: list[Path], tokens: int) -> None:
        self.tokens = tokens
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self.model: Any = PeftModel.from_pretrained(model, adapters[0], adapter_name=adapters[0].name)
        for adapter in adapters[1:]:
            self.model.load_adapter(adapter, adapter.name)
        self.model.eval()

    def encode(self, prompts: list[str]) -> Any:
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": p}], add_generation_prompt=True, tokenize=False
            )
            for p in prompts
        ]
        return self.tokenizer(texts, return_tensors="pt", padding=True)

    def generate(self, model: Any, prompts: list[str], **extra: Any) -> None:
        with torch.inference_mode():
            model.generate(
                **self.encode(prompts), max_new_tokens=self.tokens, min_new_tokens=self.tokens, do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id, **extra,
            )  # fmt: skip

    def in_turn(self, jobs: list[tuple[Path, str]]) -> float:
        """`set_adapter` and `generate`, one request after another."""
        started = time.perf_counter()
        for adapter, prompt in jobs:
            self.model.set_adapter(adapter.name)
            self.generate(self.model, [prompt])
        return time.perf_counter() - started

    def together(self, jobs: list[tuple[Path, str]]) -> float:
        """One static batch with `adapter_names`."""
        started = time.perf_counter()
        self.generate(self.model, [p for _, p in jobs], adapter_names=[a.name for a, _ in jobs])
        return time.perf_counter() - started

    def base_alone(self, prompt: str) -> float:
        """Plain Transformers `generate` on the base."""
        started = time.perf_counter()
        self.generate(self.plain, [prompt])
        return time.perf_counter() - started
