"""Adapters with tokens of their own, in the base's embedding or in one of another size, are served as PEFT does."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.formats.added_tokens import Folder
from adapters.training.prompting import FILE, digest_of, read_prompting
from inference.engine.config import EngineConfig
from inference.engine.model.runner import Runner
from inference.engine.model.step_rows import StepRows

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base

COUNT = 12
NAMES = ("llama", "qwen2", "gemma", "gemma2", "gpt2")  # untied; tied and scaled; with bounded logits; tied
KNOWN = len(tiny.tokenizer())  # tokens of the base, of whose embedding the other rows are padding
TWO = (AddedToken("<call>", normalized=False), AddedToken("<|tool|>", special=True, normalized=False, rstrip=True))
MANY = (*TWO, *(AddedToken(f"<{n}>", normalized=False) for n in range(2, tiny.VOCABULARY - KNOWN + 4)))
BEYOND = MANY[-1].content  # of an id that is no row of the base's embedding
MORE, FEWER = KNOWN + len(MANY) + 3, KNOWN + len(TWO) + 1


@dataclass
class Recipe:
    """`rows`: that the model was resized to; `saved`: trained as copies."""

    tokens: tuple[AddedToken, ...] = TWO
    rows: int = 0
    saved: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    targets: str | list[str] = "all-linear"
    scale: float = 0.3


def parts(model: Any) -> tuple[str, str]:
    """Names of embedding and output layer."""
    last = {id(module): path.rsplit(".", 1)[-1] for path, module in model.named_modules()}
    return last[id(model.get_input_embeddings())], last[id(model.get_output_embeddings())]


@torch.no_grad()
def write(folder: Path, base_folder: Path, recipe: Recipe, seed: int = 7) -> Path:
    """As training leaves it: PEFT saves what was resized, the tokenizer lies beside it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    embedding, head = parts(model)
    if recipe.rows:
        model.resize_token_embeddings(recipe.rows, mean_resizing=False)
        for weight in {id(w): w for m in (model.get_input_embeddings(), model.get_output_embeddings())
                       for w in [m.weight]}.values():  # fmt: skip
            weight[KNOWN:] = weight[:KNOWN].std() * 2 * torch.randn_like(weight[KNOWN:])  # likelier than the others
            weight[70:75] += 0.2 * torch.randn_like(weight[70:75])
    extra = dict(recipe.extra)
    if recipe.saved:
        extra["modules_to_save"] = [embedding, head]
    if "trainable_token_indices" in extra:
        extra["trainable_token_indices"] = {embedding: extra["trainable_token_indices"]}
    targets = (
        [{"E": embedding, "H": head}.get(t, t) for t in recipe.targets]
        if isinstance(recipe.targets, list)
        else recipe.targets
    )
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False, **extra
    )  # fmt: skip
    made = get_peft_model(model, config)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.normal_(0, recipe.scale if "_B" in name else recipe.scale / 4)
        elif parameter.requires_grad:
            parameter.add_(0.3 * torch.randn_like(parameter))
    made.save_pretrained(str(folder))
    tokenizer = tiny.tokenizer()
    for token in recipe.tokens:
        tokenizer.add_tokens([token], special_tokens=token.special)
    tokenizer.save_pretrained(folder)
    (folder / "rows").write_text(str(recipe.rows))
    return folder


def prompting(folder: Path, base_folder: Path) -> bytes:
    """What the registry puts into the stored copy."""
    theirs = Folder((os.path.realpath(base_folder),), str(base_folder))
    return read_prompting((os.path.realpath(folder),), str(folder), os.listdir(folder), theirs)


def spec_of(made: Family, who: str | None) -> dict[str, Any] | None:
    if who is None:
        return None
    folder = made.adapters[who]
    if who == "plain":
        return adapter(who, folder)
    if not (folder / FILE).exists():
        (folder / FILE).write_bytes(prompting(folder, made.base))
    return adapter(who, folder, prompting=digest_of((folder / FILE).read_bytes()))


@functools.lru_cache(maxsize=64)
def peft(base_folder: Path, folder: Path | None) -> Any:
    from peft import PeftModel

    model: Any = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32, attn_implementation="eager")
    if folder is None:
        return model
    rows = int((folder / "rows").read_text()) if (folder / "rows").exists() else 0
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, folder)


def tokenizer_of(made: Family, who: str | None) -> Any:
    return AutoTokenizer.from_pretrained(made.base if who in (None, "plain") else made.adapters[who])


def expected(made: Family, who: str | None, text: str, count: int = COUNT) -> list[int]:
    prompt = torch.tensor([tokenizer_of(made, who)(text)["input_ids"]])
    model = peft(made.base, made.adapters[who] if who else None)
    with torch.no_grad():
        out = model.generate(input_ids=prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False)
    found: list[int] = out[0, prompt.shape[1] :].tolist()
    return found


RECIPES = {
    "inside": Recipe(),
    "trained": Recipe(extra={"trainable_token_indices": [KNOWN, KNOWN + 1]}),
    "more": Recipe(MANY, MORE),
    "more-saved": Recipe(MANY, MORE, saved=True),
    "more-trained": Recipe(MANY, MORE, extra={"trainable_token_indices": [5, KNOWN, MORE - 4]}),
    "more-embedded": Recipe(MANY, MORE, targets=["E", "H"]),
    "fewer-embedded": Recipe(TWO, FEWER, targets=["E", "H"]),
    "fewer": Recipe(TWO, FEWER),
    "fewer-saved": Recipe(TWO, FEWER, saved=True),
}


@pytest.fixture(scope="module")
def owners(family: Callable[[str], Family], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    made: dict[str, Family] = {}

    def get(name: str) -> Family:
        if name not in made:
            found, root = family(name), tmp_path_factory.mktemp(f"vocabularies-{name}")
            own = {key: write(root / key, found.base, recipe) for key, recipe in RECIPES.items()}
            made[name] = Family(name, found.base, {"plain": found.adapters["plain"], **own})
        return made[name]

    return get


def driver(**config: Any) -> Driver:
    made = EngineConfig(device="cpu", **{"max_context": 128, "prefill_chunk": 7, "user_limit": 99, **config})
    return Driver(Runner(made), made)


def text_for(who: str | None) -> str:
    return "The sea <call> and <|tool|>  ships" + (BEYOND if (who or "").startswith("more") else "")


def run(d: Driver, made: Family, jobs: list[tuple[str, str | None]], **params: Any) -> dict[str, list[int]]:
    """(id, adapter) -> tokens."""
    taken: dict[str, list[int]] = {}
    finish = d.engine.requests.finish

    def keep(sequence: Any, reason: str) -> None:
        taken[sequence.id] = sequence.tokens[sequence.prompt_length :]
        finish(sequence, reason)

    d.engine.requests.finish = keep  # type: ignore[method-assign]
    for name, who in jobs:
        d.generate(name, base("t", made.base), spec_of(made, who), prompt=text_for(who), **{
            "max_tokens": COUNT, "ignore_eos": True, **params})  # fmt: skip
    d.finish(*[name for name, _ in jobs])
    assert not d.of("error"), d.of("error")
    d.engine.requests.finish = finish  # type: ignore[method-assign]
    return taken


@torch.inference_mode()
def assert_logits(d: Driver, made: Family, who: str | None) -> None:
    tokens = tokenizer_of(made, who)(text_for(who))["input_ids"]
    wanted = peft(made.base, made.adapters[who] if who else None)(torch.tensor([tokens])).logits[0]
    rows, model = StepRows(), d.runner.base.model
    spec = spec_of(made, who)
    rows.add_chunk(tokens, spec["digest"] if spec else None, model.probe_slot, 0, range(len(tokens)))
    found = model.forward(rows)
    assert (found[:, : wanted.shape[-1]] - wanted).abs().max() < 1e-4 * wanted.abs().max(), who
    assert torch.isneginf(found[:, wanted.shape[-1] :]).all(), who


@pytest.mark.parametrize(
    ("name", "native"), [(name, native) for name in NAMES for native in (True, False) if native or name != "qwen2"]
)
def test_text_and_logits_are_those_of_peft(name: str, native: bool, owners: Callable[[str], Family]) -> None:
    made = owners(name)
    d = driver(native=native)
    mixed = run(d, made, [(str(who), who) for who in (None, *made.adapters)])
    for who in (None, *made.adapters):
        wanted = expected(made, who, text_for(who))
        assert mixed[str(who)] == wanted, f"{who} in a mixed batch"
        assert_logits(d, made, who)
        if who in RECIPES:
            assert run(d, made, [(f"{who} alone", who)])[f"{who} alone"] == wanted, f"{who} alone"
            text = tokenizer_of(made, who).decode(wanted, skip_special_tokens=True)
            assert d.texts()[who] == d.texts()[f"{who} alone"] == text
    drawn = {token for who in ("more", "more-saved") for token in mixed[who]}
    assert name == "gemma2" or max(drawn) >= tiny.VOCABULARY, "tokens beyond the base's are drawn"
