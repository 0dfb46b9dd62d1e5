"""What mlx-lm itself answers with an adapter: greedy token ids, as they stand in tests/data/real_tools/answers.json.

    python mlx_answers.py BASE ADAPTER PROMPT          with mlx-lm==0.32.2 "mlx[cpu]==0.32.4"

The end token is left out of the choice, as `min_new_tokens` of Transformers' `generate` leaves it out.
"""

from __future__ import annotations

import sys

import mlx.core as mx
from mlx_lm import load
from mlx_lm.models.cache import make_prompt_cache
from tokenizers import Tokenizer

COUNT, END = 20, 2


def main(base: str, adapter: str, prompt: str) -> None:
    mx.set_default_device(mx.cpu)
    model, _ = load(base, adapter_path=adapter)
    cache = make_prompt_cache(model)
    tokens, found = mx.array([Tokenizer.from_file(f"{base}/tokenizer.json").encode(prompt).ids]), []
    for _ in range(COUNT):
        logits = model(tokens, cache=cache)[0, -1]
        logits[END] = -mx.inf
        found.append(int(mx.argmax(logits).item()))
        tokens = mx.array([[found[-1]]])
    sys.stdout.write(f"{found}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
