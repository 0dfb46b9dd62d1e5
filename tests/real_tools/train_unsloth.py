"""Trains a LoRA with Unsloth on a few rows of chat, on the CPU.

    UNSLOTH_COMPILE_DISABLE=1 UNSLOTH_DISABLE_STATISTICS=1 python train_unsloth.py BASE OUT

The folder in tests/data/real_tools was made with

    unsloth-2026.10.9    unsloth==2026.10.9 unsloth_zoo==2026.10.9 peft==0.21.2 trl==1.15.0 transformers==5.17.0
                         torch==2.13.0 (CPU), without torchvision
"""

from __future__ import annotations

import sys

from unsloth import FastLanguageModel  # isort: skip  (has to come before the libraries that it changes)
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

CHAT = [
    {"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"{n} is a number."}]}
    for n in range(8)
]


def main(base: str, out: str) -> None:
    model, tokenizer = FastLanguageModel.from_pretrained(base, max_seq_length=256, load_in_4bit=False)
    model = FastLanguageModel.get_peft_model(
        model, r=4, lora_alpha=16, lora_dropout=0, random_state=0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )  # fmt: skip
    rows = [{"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)} for row in CHAT]
    SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=Dataset.from_list(rows),
        args=SFTConfig(
            output_dir=out, max_steps=4, save_steps=2, logging_steps=1, per_device_train_batch_size=2,
            learning_rate=0.03, report_to=[], dataset_num_proc=1,
        ),
    ).train()  # fmt: skip
    model.save_pretrained(f"{out}/lora_model")
    tokenizer.save_pretrained(f"{out}/lora_model")


if __name__ == "__main__":
    main(*sys.argv[1:])
