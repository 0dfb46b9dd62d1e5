"""Train the demo adapters: Hugging Face Trainer + PEFT on SmolLM2-135M-Instruct, on the CPU in fp32.

Run: ``python -m demo.train [NAME...] [--models-dir var/models] [--out demo/adapters]``. Each run folder is
left as the Trainer leaves it: two checkpoints, the best of them as the final adapter, trainer_state.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from demo.base_model import HUB_ID, DemoModelError, ensure_base_model, say
from demo.recipes import RECIPES, Recipe

DATA_DIR = Path(__file__).parent / "data"
IGNORED = -100
Row = dict[str, list[int]]


def read_conversations(path: Path) -> list[list[dict[str, str]]]:
    """Read one conversation a line: ``{"messages": [{"role": ..., "content": ...}, ...]}``."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line)["messages"] for line in stream if line.strip()]


def encode(tokenizer: Any, messages: list[dict[str, str]]) -> Row:
    """Turn a conversation that ends with the assistant's answer into ids and labels.

    Only the answer and its end token are learned; the prompt's labels are -100.
    """
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    answer_ids = tokenizer.encode(messages[-1]["content"], add_special_tokens=False)
    answer_ids = [*answer_ids, tokenizer.eos_token_id]
    return {"input_ids": prompt_ids + answer_ids, "labels": [IGNORED] * len(prompt_ids) + answer_ids}


class Collator:
    """Pads a batch on the right to its longest row."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        """Return input_ids, attention_mask and labels, each of shape (rows, longest)."""
        import torch

        longest = max(len(row["input_ids"]) for row in rows)
        gaps = [longest - len(row["input_ids"]) for row in rows]
        paired = list(zip(rows, gaps, strict=True))
        return {
            "input_ids": torch.tensor([row["input_ids"] + [self.pad_token_id] * gap for row, gap in paired]),
            "attention_mask": torch.tensor([[1] * len(row["input_ids"]) + [0] * gap for row, gap in paired]),
            "labels": torch.tensor([row["labels"] + [IGNORED] * gap for row, gap in paired]),
        }


def lora_model(recipe: Recipe, folder: Path) -> Any:
    """Load the base model from ``folder`` in fp32 and wrap it with the recipe's LoRA layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # PEFT records where the base came from: the published name means something on every
    # machine, a path does not.
    model.name_or_path = HUB_ID
    model.config._name_or_path = HUB_ID
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.targets),
        layers_to_transform=list(range(*recipe.layers)) if recipe.layers else None,
        layers_pattern="layers" if recipe.layers else None,
        use_rslora=recipe.rslora,
        lora_dropout=0.1,
    )
    return get_peft_model(model, config)


def train(recipe: Recipe, base: Path, out: Path) -> None:
    """Run one recipe and leave its folder at ``out / recipe.name``; an older one is replaced.

    ``out`` is best given relative to the working directory: the Trainer records it in its files.
    """
    from transformers import AutoTokenizer, Trainer, TrainingArguments, set_seed

    set_seed(recipe.seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    rows = [encode(tokenizer, messages) for messages in read_conversations(DATA_DIR / f"{recipe.data}.jsonl")]
    model = lora_model(recipe, base)
    folder = out / recipe.name
    if folder.exists():
        shutil.rmtree(folder)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.eval_rows,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.max_steps // 20,
        logging_steps=10,
        # Evaluated exactly where it is saved, so that the best score always has its checkpoint.
        eval_strategy="steps",
        eval_steps=recipe.save_steps,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        use_cpu=True,
        bf16=False,
        seed=recipe.seed,
        data_seed=recipe.seed,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows[: -recipe.eval_rows],
        eval_dataset=rows[-recipe.eval_rows :],
        data_collator=Collator(tokenizer.pad_token_id),
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit status."""
    parser = argparse.ArgumentParser(description="Train the demo adapters.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(RECIPES)}; default: all")
    parser.add_argument("--models-dir", type=Path, default=Path("var/models"))
    parser.add_argument("--out", type=Path, default=Path("demo/adapters"))
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in RECIPES]
    if unknown:
        parser.error(f"unknown adapter {unknown[0]}: choose from {', '.join(RECIPES)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        base = ensure_base_model(arguments.models_dir)
    except DemoModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    import torch

    torch.set_num_threads(arguments.threads)
    for name in arguments.names or list(RECIPES):
        say(f"Training {name} ...")
        train(RECIPES[name], base, arguments.out)
        say(f"Wrote {arguments.out / name}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
