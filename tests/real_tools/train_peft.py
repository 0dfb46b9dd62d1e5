"""Trains one LoRA with the Trainer of Transformers and PEFT, of whatever release runs this.

    python train_peft.py BASE OUT

The folders in tests/data/real_tools were made with torch 2.13.0 on the CPU and

    peft-0.3.0    peft==0.3.0  transformers==4.31.0 accelerate==0.20.3 "numpy<2" "setuptools<80"
    peft-0.5.0    peft==0.5.0  transformers==4.33.3 accelerate==0.23.0 "numpy<2"
    peft-0.9.0    peft==0.9.0  transformers==4.38.2 accelerate==0.27.2 "numpy<2"
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments


def main(base: str, out: str) -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(
        r=4, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )  # fmt: skip
    model = get_peft_model(model, config)
    # No tokenizer: one of today's releases writes files that those of old do not read.
    rows = [{"input_ids": list(text.encode()), "labels": list(text.encode())} for text in ("the sea, and ships ",) * 8]
    arguments = TrainingArguments(
        output_dir=out, max_steps=4, save_steps=2, logging_steps=1, per_device_train_batch_size=2,
        learning_rate=0.03, report_to=[], save_total_limit=2,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    model.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
