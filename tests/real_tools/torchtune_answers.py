"""What torchtune's own model answers with an adapter: greedy token ids, as they stand in
tests/data/real_tools/answers.json.

    python torchtune_answers.py BASE EPOCH_FOLDER PROMPT       with torchtune==0.6.1 torchao==0.13.0

The end token is left out of the choice, as `min_new_tokens` of Transformers' `generate` leaves it out.
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torchtune.models.convert_weights import hf_to_tune
from torchtune.models.llama3 import lora_llama3

COUNT, END = 20, 2


def main(base: str, adapter: str, prompt: str) -> None:
    model = lora_llama3(
        ["q_proj", "k_proj", "v_proj", "output_proj"], apply_lora_to_mlp=True, lora_rank=4, lora_alpha=16,
        vocab_size=300, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=32, intermediate_dim=64, max_seq_len=512,
        norm_eps=1e-5, rope_base=10000,
    )  # fmt: skip
    own = hf_to_tune(load_file(f"{base}/model.safetensors"), num_heads=4, num_kv_heads=2, dim=32, head_dim=8)
    missing, unknown = model.load_state_dict({**own, **torch.load(f"{adapter}/adapter_model.pt")}, strict=False)
    assert not missing and not unknown, (missing, unknown)  # noqa: S101
    tokens = Tokenizer.from_file(f"{base}/tokenizer.json").encode(prompt).ids
    found: list[int] = []
    with torch.no_grad():
        for _ in range(COUNT):
            logits = model.eval()(torch.tensor([tokens + found]))[0, -1]
            logits[END] = -torch.inf
            found.append(int(logits.argmax()))
    sys.stdout.write(f"{found}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
