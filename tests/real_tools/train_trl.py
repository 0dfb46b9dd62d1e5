"""Trains a LoRA with the SFTTrainer of TRL on a few rows of chat, with checkpoints and an evaluation.

    python train_trl.py BASE OUT

The folder in tests/data/real_tools was made with

    trl-1.16.0    trl==1.16.0 peft==0.21.2 transformers==5.24.0 accelerate==1.15.0 datasets==5.2.0 torch==2.13.0 (CPU)
"""

from __future__ import annotations

import sys

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

CHAT = [
    {"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"{n} is a number."}]}
    for n in range(8)
]


def main(base: str, out: str) -> None:
    trainer = SFTTrainer(
        model=base,
        train_dataset=Dataset.from_list(CHAT),
        eval_dataset=Dataset.from_list(CHAT[:2]),
        peft_config=LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=out, max_steps=4, save_steps=2, eval_steps=2, eval_strategy="steps", logging_steps=1,
            per_device_train_batch_size=2, learning_rate=0.03, report_to=[], use_cpu=True, bf16=False,
            load_best_model_at_end=True,
        ),
    )  # fmt: skip
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main(*sys.argv[1:])
