"""Adapters with tokens of their own, in the base's embedding or in one of another size, are served as PEFT does."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.formats.added_tokens import Location
from adapters.training.prompting import FILE, digest_of, read_prompting
from inference.engine.config import EngineConfig
from inference.engine.model.runner import Runner
from inference.engine.model.step_rows import StepRows
from inference.engine.recipes import recipe_digest

from . import tiny
from .conftest import Family
from .driver import Driver, adapter, base
from .test_runner import base_logits

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
            weight[tiny.VOCABULARY :] *= 3
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
    theirs = Location((os.path.realpath(base_folder),), str(base_folder))
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


def peft(base_folder: Path, folder: Path | None) -> Any:
    return _peft(base_folder, tiny.files_of(base_folder), folder, tiny.files_of(folder) if folder else None)


@functools.lru_cache(maxsize=64)
def _peft(base_folder: Path, base_files: Any, folder: Path | None, files: Any) -> Any:
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
            shutil.copytree(found.base, root / "base")
            if name == "qwen2":  # whose class would add a token that the folder's tokenizer.json does not have
                tiny.edit_json(root / "base" / "tokenizer_config.json", unk_token="<|end|>", pad_token="<|end|>")
            own = {key: write(root / key, root / "base", recipe) for key, recipe in RECIPES.items()}
            made[name] = Family(name, root / "base", {"plain": found.adapters["plain"], **own})
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
    assert max(drawn) >= tiny.VOCABULARY, "tokens beyond the base's are drawn"


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_logits_of_others_are_bit_identical(name: str, owners: Callable[[str], Family]) -> None:
    made = owners(name)
    d = driver(max_batch=8)
    d.send("load", id="load", base=base("t", made.base))
    d.until(lambda: d.ended("load"))
    before = base_logits(d.runner)
    run(d, made, [(who, who) for who in made.adapters], max_tokens=1)
    assert torch.equal(base_logits(d.runner), before)
    digests = {who: (spec_of(made, who) or {})["digest"] for who in made.adapters}

    @torch.inference_mode()
    def logits(users: list[str | None]) -> torch.Tensor:
        rows = StepRows()
        for slot, who in enumerate(users):
            rows.add_decoding(70 + slot, digests.get(who or ""), slot, 1)
        return d.runner.base.model.forward(rows).clone()

    mixed = logits([None, "more", "plain", "fewer", None, "more-saved", "inside"])
    apart = logits([None, None, "plain", None, None, None, "inside"])
    others = [0, 2, 4, 6]
    assert mixed.shape[-1] == MORE and apart.shape[-1] == tiny.VOCABULARY
    assert torch.equal(mixed[others, : tiny.VOCABULARY], apart[others])
    assert torch.isneginf(mixed[others, tiny.VOCABULARY :]).all() and torch.isneginf(mixed[3, FEWER:]).all()
    assert torch.isfinite(mixed[[1, 5]]).all() and torch.isfinite(mixed[3, :FEWER]).all()


def test_what_they_take_counts_and_comes_back(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d = driver()
    run(d, made, [(who, who) for who in made.adapters], max_tokens=1)
    sizes = {each.name: each.bytes for each in d.engine.residency.adapters.values()}
    width = 64 * 4
    assert sizes["inside"] == sizes["plain"], "only the base's rows"
    assert sizes["fewer"] < sizes["plain"] + width * (FEWER + 2 * KNOWN), (
        "the embedding's rows that differ, and a layer"
    )
    assert sizes["more"] > sizes["plain"] + width * (MORE - KNOWN + MORE)
    model = d.runner.base.model
    assert len({id(weights.text) for weights in model.bank.resident.values()}) == 4, "those with the same tokens share"
    for who in made.adapters:
        d.send("evict", id=who + " out", digest=(spec_of(made, who) or {})["digest"])
        d.until(lambda who=who: d.ended(who + " out"))
    assert not model.own.resident and not any(module._forward_hooks for module in model.module.modules())
    assert not d.runner.base.texts, "their tokenizers go with them"


def test_token_ids_are_those_of_whom_is_asked(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d = driver()
    asked = {"base": (None, 319, 320), "inside": ("inside", 319, 320), "more": ("more", MORE - 1, MORE),
             "fewer": ("fewer", FEWER - 1, FEWER)}  # fmt: skip
    for again in range(2):  # before and after they are resident
        for name, (who, last, beyond) in asked.items():
            for token in (last, beyond):
                d.intake.take({"type": "generate", "id": f"{name} {token} {again}", "user": f"{name}{token}",
                               "base": base("t", made.base), "adapter": spec_of(made, who), "tokens": [70, token],
                               "params": {"max_tokens": 2}})  # fmt: skip
        d.finish(*[f"{name} {token} {again}" for name, (_, *tokens) in asked.items() for token in tokens])
        for name, (_, last, beyond) in asked.items():
            assert d.ended(f"{name} {last} {again}")["type"] == "done", name  # type: ignore[index]
            assert d.ended(f"{name} {beyond} {again}")["code"] == "unknown_token", name  # type: ignore[index]


def test_a_token_is_named_counted_and_ends_as_its_tokenizer_says(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d, spec = driver(), spec_of(made, "more")
    tokenizer = tokenizer_of(made, "more")
    prompt = text_for("more")
    wanted = expected(made, "more", prompt)
    d.send("count", id="count", base=base("t", made.base), prompt=prompt, adapter=spec)
    d.send("count", id="base", base=base("t", made.base), prompt=prompt)
    assert d.ended("count")["data"]["tokens"] == len(tokenizer(prompt)["input_ids"])  # type: ignore[index]
    assert d.ended("base")["data"]["tokens"] == len(prompt), "bytes, to the base"  # type: ignore[index]
    own = next(at for at, token in enumerate(wanted) if tiny.VOCABULARY <= token < KNOWN + len(MANY))
    name = tokenizer.convert_ids_to_tokens(wanted[own])
    asked: dict[str, dict[str, Any]] = {"free": {"logprobs": 20}, "string": {"stop": (name,)},
                            "id": {"stop_token_ids": [wanted[own]]}}  # fmt: skip
    for request, params in asked.items():
        d.generate(request, base("t", made.base), spec, prompt=prompt, max_tokens=COUNT, ignore_eos=True, **params)
    d.finish("free", "string", "id")
    named = [one for event in (*d.of("token", "free"), d.ended("free")) for one in event.get("logprobs", [])]  # type: ignore
    assert [one["token_id"] for one in named] == wanted and named[own]["token"] == name
    assert all(len(one["top"]) == 20 for one in named)
    for request in ("string", "id"):
        ended = d.ended(request)
        assert ended is not None and ended["finish_reason"] == "stop"
        assert ended["usage"]["completion_tokens"] == own + 1
        assert d.texts()[request] == tokenizer.decode(wanted[:own], skip_special_tokens=True)


def test_probabilities_of_a_prompt_with_tokens_of_its_own(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d = driver()
    for who in ("more", "fewer", "inside", None):
        d.intake.take({"type": "generate", "id": str(who), "user": "u", "base": base("t", made.base),
                       "adapter": spec_of(made, who), "prompt": text_for(who), "params": {"max_tokens": 1}, "reading":
                       {"logprobs": 2, "continuation": None, "echo": True, "answer": False}})  # fmt: skip
    d.finish("more", "fewer", "inside", "None")
    assert not d.of("error")
    for who in ("more", "fewer", "inside", None):
        tokens = tokenizer_of(made, who)(text_for(who))["input_ids"]
        with torch.no_grad():
            logits = peft(made.base, made.adapters[who] if who else None)(torch.tensor([tokens])).logits[0]
        wanted = torch.log_softmax(logits, dim=-1)[range(len(tokens) - 1), tokens[1:]]
        told = [one for event in d.of("prompt", str(who)) for one in event["logprobs"]]
        assert [one["token_id"] for one in told] == tokens
        assert [one["token"] for one in told if one["bytes"] is None] == ["<|tool|>"] * (who is not None)
        assert torch.allclose(torch.tensor([one["logprob"] for one in told[1:]]), wanted, atol=1e-3), who


def test_drawing_stays_within_a_vocabulary(owners: Callable[[str], Family]) -> None:
    """Beside a wider one, and with a grammar."""
    made = owners("llama")
    d = driver(max_batch=8)
    drawn = run(d, made, [(f"{who} {n}", who) for n in range(2) for who in ("fewer", "more", None)],
                temperature=2.0, seed=5, max_tokens=40)  # fmt: skip
    limits = {"fewer": FEWER, "more": MORE, "None": tiny.VOCABULARY}
    for request, tokens in drawn.items():
        assert max(tokens) < limits[request.partition(" ")[0]]
    alone = driver()
    assert (
        run(alone, made, [("fewer 0", "fewer")], temperature=2.0, seed=5, max_tokens=40)["fewer 0"] == drawn["fewer 0"]
    )
    for who in ("fewer", "more"):
        d.generate(f"json {who}", base("t", made.base), spec_of(made, who), json_object=True, max_tokens=20)
    d.finish("json fewer", "json more")
    assert not d.of("error") and all(d.texts()[f"json {who}"].startswith("{") for who in ("fewer", "more"))


def test_control_tokens_of_its_own_are_text_in_messages(owners: Callable[[str], Family], tmp_path: Path) -> None:
    found = owners("llama")
    folder = write(tmp_path / "own", found.base, Recipe())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}<|tool|>{{ m.content }}<call>{% endfor %}"
    tokenizer.eos_token = "<call>"  # noqa: S105
    tokenizer.save_pretrained(folder)
    made = Family("llama", found.base, {"own": folder})
    spec = spec_of(made, "own")
    assert spec is not None
    runner = driver().runner
    messages = [{"role": "user", "content": "say <|tool|>"}]
    tokens = runner.encode(base("t", made.base), messages, None, False, spec)
    assert tokens.count(KNOWN + 1) == 1 and tokens[0] == KNOWN + 1 and tokens[-1] == KNOWN
    assert runner.manner(base("t", made.base), spec)[0] == {KNOWN}


def edited(made: Family, who: str, to: Path, drop: str = "", **changes: Any) -> dict[str, Any]:
    to.mkdir()
    for file in made.adapters[who].iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    tensors = load_file(to / "adapter_model.safetensors")
    save_file({k: v for k, v in tensors.items() if not drop or drop not in k}, to / "adapter_model.safetensors")
    tiny.edit_json(to / "adapter_config.json", **changes)
    (to / FILE).write_bytes(prompting(to, made.base))
    return adapter("x", to, prompting=digest_of((to / FILE).read_bytes()))


@pytest.mark.parametrize(
    ("name", "who", "drop", "changes"),
    [("llama", "more", "lm_head", {}), ("llama", "fewer", "embed_tokens", {}),
     ("gemma", "more", "lm_head", {"modules_to_save": ["embed_tokens"]})],
)  # fmt: skip
def test_rows_that_nobody_saved_are_refused(
    name: str, who: str, drop: str, changes: dict[str, Any], owners: Callable[[str], Family], tmp_path: Path
) -> None:
    made = owners(name)
    d = driver()
    d.generate("r", base("t", made.base), edited(made, who, tmp_path / "x", drop, **changes), max_tokens=1)
    d.finish("r")
    assert d.ended("r")["code"] == "adapter_incompatible"  # type: ignore[index]
    assert d.runner.base.model.bank.resident == {}


def test_a_base_that_looks_ids_up_twice_gets_no_more_rows(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    d = driver()
    d.send("load", id="load", base=base("t", made.base))
    d.until(lambda: d.ended("load"))
    assert d.runner.base.parts.one_lookup
    d.runner.base.parts.one_lookup = False
    for who in ("more", "fewer"):
        d.generate(who, base("t", made.base), spec_of(made, who), max_tokens=1)
    d.finish("more", "fewer")
    assert [d.ended(who).get("code") for who in ("more", "fewer")] == ["adapter_incompatible", None]  # type: ignore


def test_a_blend_has_no_member_with_tokens_of_its_own(owners: Callable[[str], Family]) -> None:
    made = owners("llama")
    members = [{**(spec_of(made, who) or {}), "weight": 0.5} for who in ("plain", "inside")]
    digest = recipe_digest((member["digest"], member["weight"]) for member in members)
    spec = {"digest": digest, "path": "", "name": "blend", "proven": True, "members": members}
    d = driver()
    d.generate("r", base("t", made.base), spec, max_tokens=1)
    d.finish("r")
    ended: Any = d.ended("r")
    assert (ended["code"], ended["detail"]["name"]) == ("blend_unsupported", "inside")
    assert ended["detail"]["what"] == "added_tokens"


def test_tokens_that_the_bases_tokenizer_cannot_give_their_ids_are_refused(
    owners: Callable[[str], Family], tmp_path: Path
) -> None:
    """The registry has compared another file than this base's."""
    made = owners("llama")
    edited(made, "inside", tmp_path / "x")
    said = json.loads((tmp_path / "x" / FILE).read_bytes())
    said["added_tokens"][0]["id"] += 7
    (tmp_path / "x" / FILE).write_text(json.dumps(said))
    spec = adapter("x", tmp_path / "x", prompting=digest_of((tmp_path / "x" / FILE).read_bytes()))
    d = driver()
    d.generate("r", base("t", made.base), spec, max_tokens=1)
    d.finish("r")
    assert d.ended("r")["code"] == "adapter_incompatible"  # type: ignore[index]
