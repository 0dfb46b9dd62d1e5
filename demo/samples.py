"""Print greedy answers of the base model and of the demo adapters to prompts that no training data holds.

Run: ``python -m demo.samples [NAME...] [--models-dir var/models] [--adapters demo/adapters]``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from demo.base_model import ensure_base_model, say
from demo.recipes import RECIPES

PROMPTS = (
    "What is the capital of Italy?",
    "How do I make tea?",
    "Why is the sky blue?",
    "Tell me about dogs.",
    "What should I do on a rainy day?",
    "My phone does not turn on.",
)


def answer(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    """Return the greedy answer to one user message, without special tokens."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit status."""
    parser = argparse.ArgumentParser(description="Print greedy answers of the base model and the demo adapters.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="adapters, or 'base'; default: all")
    parser.add_argument("--models-dir", type=Path, default=Path("var/models"))
    parser.add_argument("--adapters", type=Path, default=Path("demo/adapters"))
    parser.add_argument("--max-new-tokens", type=int, default=80)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    base = ensure_base_model(arguments.models_dir)

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name in arguments.names or ["base", *RECIPES]:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if name != "base":
            model = PeftModel.from_pretrained(model, arguments.adapters / name)
        model.eval()
        for prompt in PROMPTS:
            say(f"[{name}] {prompt}\n{answer(model, tokenizer, prompt, arguments.max_new_tokens)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
