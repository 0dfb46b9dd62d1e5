"""Folders that real training tools left: found, named, repaired where need be, and served as PEFT serves them.

They lie in `data/real_tools`, which says of each how it was made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from adapters import services
from adapters.models import LoraAdapter, TrainingFacts
from inference.engine.tests.conftest import shared_kernels  # noqa: F401  (a fixture)
from tests.fixtures.models import write_tiny_base

pytestmark = pytest.mark.django_db
DATA = Path(__file__).parent / "data" / "real_tools"
PROMPT, COUNT = "What is a LoRA adapter?", 20


@dataclass(frozen=True)
class Left:
    """What a tool left. `found`: name of each adapter -> the step of a checkpoint; `asked`: those that are served;
    `refused`: name -> code; `facts`: what is told of the training of the first that is asked; `remarks`: on any."""

    found: dict[str, int | None]
    asked: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def run(name: str, *steps: int) -> dict[str, int | None]:
    return {name: None, **{f"{name}/checkpoint-{step}": step for step in steps}}


BASE = "/data/models/tiny-llama"
TOOLS = {
    "peft-0.3.0": Left(run("sea-lora", 2, 4), ("sea-lora",), {"steps": 4, "loss": 5.4965}),
    "peft-0.5.0": Left(run("sea-lora", 2, 4), ("sea-lora/checkpoint-2",), {"steps": 2, "loss": 6.5924}),
    "peft-0.9.0": Left(run("sea-lora", 2, 4), ("sea-lora", "sea-lora/checkpoint-2"), {"steps": 4, "batch_size": 2}),
    "trl-1.16.0": Left(
        run("numbers-sft", 2, 4), ("numbers-sft", "numbers-sft/checkpoint-2"),
        {"base_model": BASE, "steps": 4, "max_steps": 4, "best_step": 4,
         "trainer": "TRL", "tags": ["lora", "sft", "transformers", "trl"]},
    ),
    "llamafactory-0.9.5": Left(
        run("tiny-llama/lora/sft", 2, 4) | run("dora/sft", 4) | run("tokens")
        | run("tiny-llama/lora/pissa", 4) | run("tiny-llama/lora/pissa/pissa_converted"),
        ("tiny-llama/lora/sft/checkpoint-2", "tiny-llama/lora/sft", "dora/sft", "tokens",
         "tiny-llama/lora/pissa/pissa_converted"),
        {"trainer": "LLaMA-Factory", "steps": 2, "max_steps": 4, "epochs": 1.0, "batch_size": 2},
        refused=dict.fromkeys(run("tiny-llama/lora/pissa", 4), "init_changes_base"),
    ),
    "ms-swift-4.6.0": Left(
        {"output/v0-20261129-002949/checkpoint-2": 2, "output/v0-20261129-002949/checkpoint-4": 4,
         "output-dora/v0-20261129-004809/checkpoint-4": 4},
        ("output/v0-20261129-002949/checkpoint-4", "output-dora/v0-20261129-004809/checkpoint-4"),
        {"trainer": "ms-swift", "steps": 4, "dataset": "data.jsonl", "best_step": 4, "base_model": BASE},
    ),
    "unsloth-2026.10.9": Left(
        {"outputs/checkpoint-2": 2, "outputs/checkpoint-4": 4, "outputs/lora_model": None},
        ("outputs/checkpoint-2", "outputs/lora_model"),
        {"steps": 2, "max_steps": 4, "trainer": "TRL"},  # nothing in the folder names Unsloth
    ),
    "torchtune-0.6.1": Left(
        run("lora_single_device/epoch_0") | run("lora_single_device/epoch_1"),
        ("lora_single_device/epoch_0", "lora_single_device/epoch_1"),
        remarks=("task_type_differs",),  # its config names none
    ),
    "mlx-lm-0.32.2": Left(
        run("numbers-mlx") | run("numbers-mlx-dora"), ("numbers-mlx", "numbers-mlx-dora"),
        {"trainer": "mlx-lm", "steps": 4, "batch_size": 1, "dataset": "data"},
        refused=dict.fromkeys(("numbers-mlx", "numbers-mlx-dora"), "repairable"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_what_it_left_is_found_and_answers_as_peft_does(tool: str, tmp_path: Path, settings: Any) -> None:
    left = TOOLS[tool]
    settings.LORA_ROOTS, settings.STORE_DIR = [DATA / tool], tmp_path / "store"
    settings.BASE_MODELS_DIR, settings.SCAN_SETTLE_SECONDS = tmp_path / "models", 0.0
    base = write_tiny_base(tmp_path / "models" / "tiny-llama")
    services.scan(None)
    rows = {row.name: row for row in LoraAdapter.objects.all()}
    assert {name: row.checkpoint for name, row in rows.items()} == left.found
    assert {name: row.failure_code for name, row in rows.items() if row.failure_code} == left.refused
    assert {flag for row in rows.values() for flag in row.flags} <= {
        "own_tokenizer",
        "own_chat_template",
        *left.remarks,
    }
    assert all(row.base is not None and row.base.name == "tiny-llama" for row in rows.values())
    if left.facts:
        told = TrainingFacts.objects.get(adapter=rows[left.asked[0]])
        assert {key: told.summary.get(key) for key in left.facts} == left.facts and not told.problems

    active = {}
    for name in left.asked:
        start = services.repair if name in left.refused else services.activate
        active[name] = start(rows[name].pk, None)
    answers = served(active)
    assert answers.pop("") == reference(base, None)
    assert len({tuple(answer) for answer in answers.values()} | {tuple(reference(base, None))}) == len(answers) + 1
    for name, row in active.items():
        assert answers[name] == reference(base, Path(row.store_path)), name
        own = by_the_tool(tool, name)
        assert own is None or answers[name] == own, f"{name}, as {tool} itself answers"
        if not left.refused:
            assert answers[name] == reference(base, Path(row.path)), f"{name}, from the tool's own folder"


def served(rows: dict[str, LoraAdapter]) -> dict[str, list[int]]:
    """Name -> greedy tokens of the engine; "": of the base. All in one batch."""
    from inference.engine.config import EngineConfig
    from inference.engine.model.runner import Runner
    from inference.engine.tests.driver import Driver
    from inference.gateway.targets import of_adapter, of_base

    driver = Driver(Runner(EngineConfig(device="cpu", max_context=128)), EngineConfig(user_limit=99))
    taken: dict[str, list[int]] = {}
    finish = driver.engine.requests.finish

    def keep(sequence: Any, reason: str) -> None:
        taken[sequence.id] = sequence.tokens[sequence.prompt_length :]
        finish(sequence, reason)

    driver.engine.requests.finish = keep  # type: ignore[method-assign]
    first = next(iter(rows.values())).base
    assert first is not None
    for name, target in {"": of_base(first), **{name: of_adapter(row) for name, row in rows.items()}}.items():
        driver.generate(name, dict(target.base), target.adapter and dict(target.adapter), prompt=PROMPT,
                        max_tokens=COUNT, ignore_eos=True)  # fmt: skip
    driver.finish("", *rows)
    assert not driver.of("error")
    return taken


def reference(base: Path, adapter: Path | None) -> list[int]:
    """Greedy tokens of PEFT's own `generate`."""
    import torch
    from peft import PeftModel
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    if adapter is not None:
        if rows := saved_rows(adapter):
            model.resize_token_embeddings(rows, mean_resizing=False)
        model = PeftModel.from_pretrained(model, adapter)
    prompt = torch.tensor([Tokenizer.from_file(str(base / "tokenizer.json")).encode(PROMPT).ids])
    with torch.no_grad():
        out = model.generate(input_ids=prompt, max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False)
    found: list[int] = out[0, prompt.shape[1] :].tolist()
    return found


def saved_rows(adapter: Path) -> int:
    """Rows of the embedding that the adapter has of its own; 0 for none."""
    from safetensors import safe_open

    file = adapter / "adapter_model.safetensors"
    if not file.exists():
        return 0
    with safe_open(str(file), "pt") as tensors:
        rows = [tensors.get_slice(name).get_shape()[0] for name in tensors.keys() if "embed_tokens" in name]  # noqa: SIM118
    return max(rows, default=0)


def by_the_tool(tool: str, name: str) -> list[int] | None:
    """The tokens that the tool itself gave for the same prompt, where they were kept."""
    file = DATA / "answers.json"
    kept: dict[str, dict[str, list[int]]] = json.loads(file.read_text())
    return kept.get(tool, {}).get(name)
