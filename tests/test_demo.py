"""The committed demo adapters are whole, and installing them makes good and broken folders as promised."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import time
from array import array
from pathlib import Path

import pytest

from demo import base_model
from demo.base_model import DemoModelError
from demo.broken import CONFIG, WEIGHTS, broken_adapters
from demo.install import RECORD, SOURCE, DemoInstallError, install
from demo.recipes import RECIPES, Recipe
from demo.safetensors_file import Tensor, pack, parse, read

MIB = 1024 * 1024
MODULE_SHAPES = {
    "q_proj": (576, 576),
    "k_proj": (192, 576),
    "v_proj": (192, 576),
    "o_proj": (576, 576),
    "gate_proj": (1536, 576),
    "up_proj": (1536, 576),
    "down_proj": (576, 1536),
}
BROKEN = {
    "broken-truncated",
    "broken-other-base",
    "broken-no-weights",
    "broken-zero-b",
    "broken-still-writing",
}

recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An adapter directory that does not exist yet; other fixtures use the test's own directory."""
    return tmp_path / "adapters"


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file below ``root`` with its bytes and modification time."""
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and path.name != RECORD
    }


def expected_tensors(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that PEFT saves for a recipe on SmolLM2-135M."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(*(recipe.layers or (0, 30))):
        for module in recipe.targets:
            rows, columns = MODULE_SHAPES[module]
            block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            prefix = f"base_model.model.model.layers.{layer}.{block}.{module}"
            shapes[f"{prefix}.lora_A.weight"] = (recipe.rank, columns)
            shapes[f"{prefix}.lora_B.weight"] = (rows, recipe.rank)
    return shapes


@recipes
def test_committed_adapter_matches_its_recipe(recipe: Recipe) -> None:
    folder = SOURCE / recipe.name
    for place in (folder, *folder.glob("checkpoint-*")):
        config = json.loads((place / CONFIG).read_text())
        assert config["base_model_name_or_path"] == base_model.HUB_ID
        assert config["peft_type"] == "LORA"
        assert (config["r"], config["lora_alpha"]) == (recipe.rank, recipe.alpha)
        assert config["use_rslora"] is recipe.rslora
        assert sorted(config["target_modules"]) == sorted(recipe.targets)
        tensors = read(place / WEIGHTS)
        assert {name: tensor.shape for name, tensor in tensors.items()} == expected_tensors(recipe)
        for name, tensor in tensors.items():
            assert tensor.dtype == "F32"
            values = array("f", tensor.data)
            assert len(values) == math.prod(tensor.shape)
            assert all(map(math.isfinite, values)), name
            assert any(values), name


@recipes
def test_committed_run_has_its_training_facts(recipe: Recipe) -> None:
    folder = SOURCE / recipe.name
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == recipe.max_steps
    checkpoints = {path.name for path in folder.glob("checkpoint-*")}
    assert checkpoints == {f"checkpoint-{recipe.save_steps}", f"checkpoint-{recipe.max_steps}"}
    best = Path(state["best_model_checkpoint"])
    assert not best.is_absolute()
    assert best.name in checkpoints
    assert (folder / WEIGHTS).read_bytes() == (folder / best.name / WEIGHTS).read_bytes()
    keys = {key for entry in state["log_history"] for key in entry}
    assert {"loss", "eval_loss", "learning_rate", "step"} <= keys
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < losses[0]


@recipes
def test_committed_run_is_small_and_portable(recipe: Recipe) -> None:
    files = [path for path in (SOURCE / recipe.name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8 * MIB
    for path in files:
        assert path.suffix != ".pt" and not path.name.startswith(("rng_state", "tokenizer")), path
        if path.name == WEIGHTS:
            assert path.stat().st_size < 3 * MIB
            continue
        data = path.read_bytes()
        for trace in (os.fsencode(SOURCE.parents[1]), os.fsencode(Path.home()), b"/home/", b"/Users/"):
            assert trace not in data, (path, trace)


def test_committed_runs_fit_together() -> None:
    files = [path for path in SOURCE.rglob("*") if path.is_file()]
    assert {path.name for path in SOURCE.iterdir()} == set(RECIPES)
    assert sum(path.stat().st_size for path in files) < 22 * MIB


@recipes
def test_training_data_is_well_formed(recipe: Recipe) -> None:
    lines = (SOURCE.parent / "data" / f"{recipe.data}.jsonl").read_text(encoding="utf-8").splitlines()
    assert 40 <= len(lines) <= 80
    prompts = set()
    for line in lines:
        question, answer = json.loads(line)["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert answer["content"].strip()
        prompts.add(question["content"])
        if recipe.name == "json-only":
            assert set(json.loads(answer["content"])) == {"answer", "topic"}
        if recipe.name == "haiku":
            assert len(answer["content"].splitlines()) == 3
    assert len(prompts) == len(lines)


def test_install_copies_the_committed_adapters(root: Path) -> None:
    outcome = install(root)
    assert set(outcome) == set(RECIPES) | BROKEN
    assert set(outcome.values()) == {"installed"}
    for name in RECIPES:
        copied = {file: data for file, (data, _) in snapshot(root / name).items()}
        assert copied == {file: data for file, (data, _) in snapshot(SOURCE / name).items()}
    assert not [path for path in root.iterdir() if path.name.startswith(".") and path.name != RECORD]


def test_install_gives_old_times(root: Path) -> None:
    install(root)
    newest = max(path.stat().st_mtime for path in root.rglob("*") if path.name != RECORD)
    assert newest < time.time() - 3000


def test_install_again_changes_nothing(root: Path) -> None:
    install(root)
    before = snapshot(root)
    assert set(install(root).values()) == {"already in place"}
    assert snapshot(root) == before


def test_install_keeps_what_people_changed(root: Path) -> None:
    install(root)
    changed = root / "pirate" / CONFIG
    changed.write_text("{}")
    own = root / "mine" / CONFIG
    own.parent.mkdir()
    own.write_text('{"r": 1}')
    outcome = install(root)
    assert CONFIG in outcome["pirate"]
    assert changed.read_text() == "{}"
    assert own.read_text() == '{"r": 1}'


def test_install_never_takes_over_a_foreign_folder(root: Path) -> None:
    foreign = root / "haiku" / WEIGHTS
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"somebody else's")
    install(root)
    assert foreign.read_bytes() == b"somebody else's"


def test_install_leaves_a_link_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = tmp_path / "adapters"
    root.mkdir()
    (root / "pirate").symlink_to(elsewhere)
    assert "left alone" in install(root)["pirate"]
    assert list(elsewhere.iterdir()) == []


def test_install_writes_through_no_link(root: Path, tmp_path: Path) -> None:
    install(root)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "gold").write_text("gold")
    os.utime(outside / "gold", (1, 1))
    checkpoint = next(path for path in root.rglob("checkpoint-*") if path.is_dir())
    card = root / "telegram" / "README.md"
    for path in sorted(checkpoint.iterdir()):
        path.unlink()
    checkpoint.rmdir()
    checkpoint.symlink_to(outside)
    for path in (card, root / RECORD):
        path.unlink()
        path.symlink_to(outside / "gold")
    (root / "telegram" / WEIGHTS).unlink()
    before = snapshot(outside)
    outcome = install(root)
    assert checkpoint.name in outcome[checkpoint.parent.name] and "README.md" in outcome["telegram"]
    assert snapshot(outside) == before
    assert not (root / RECORD).is_symlink()
    assert read(root / "telegram" / WEIGHTS)


def test_install_updates_what_an_earlier_demo_wrote(root: Path) -> None:
    install(root)
    card = root / "telegram" / "README.md"
    record = json.loads((root / RECORD).read_text())
    card.write_text("an older demo's card")
    record["telegram"]["README.md"] = hashlib.sha256(card.read_bytes()).hexdigest()
    (root / RECORD).write_text(json.dumps(record))
    assert install(root)["telegram"] == "1 file(s) updated"
    assert card.read_bytes() == (SOURCE / "telegram" / "README.md").read_bytes()


def test_install_completes_a_folder_and_respects_a_deleted_one(root: Path) -> None:
    install(root)
    (root / "pirate" / WEIGHTS).unlink()
    for path in sorted((root / "haiku").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "haiku").rmdir()
    outcome = install(root)
    assert outcome["pirate"] == "1 file(s) updated"
    assert "stays deleted" in outcome["haiku"]
    assert not (root / "haiku").exists()
    assert install(root, restore=True)["haiku"] == "installed"
    assert read(root / "haiku" / WEIGHTS)


def test_broken_truncated(root: Path) -> None:
    install(root)
    assert json.loads((root / "broken-truncated" / CONFIG).read_text())["r"] == RECIPES["pirate"].rank
    with pytest.raises(ValueError, match="file size differs"):
        read(root / "broken-truncated" / WEIGHTS)


def test_broken_zero_b(root: Path) -> None:
    install(root)
    good = read(SOURCE / "pirate" / WEIGHTS)
    bad = read(root / "broken-zero-b" / WEIGHTS)
    assert {name: tensor.shape for name, tensor in bad.items()} == {name: good[name].shape for name in good}
    for name, tensor in bad.items():
        assert any(tensor.data) == (".lora_A." in name)
        if ".lora_A." in name:
            assert tensor == good[name]


def test_broken_other_base(root: Path) -> None:
    install(root)
    folder = root / "broken-other-base"
    config = json.loads((folder / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "Qwen/Qwen2.5-0.5B-Instruct"
    tensors = read(folder / WEIGHTS)
    assert len(tensors) == 24 * 2 * 2
    assert tensors["base_model.model.model.layers.23.self_attn.q_proj.lora_A.weight"].shape == (4, 896)
    assert tensors["base_model.model.model.layers.23.self_attn.v_proj.lora_B.weight"].shape == (128, 4)
    assert all(any(tensor.data) for tensor in tensors.values())


def test_broken_without_weights_and_still_writing(root: Path) -> None:
    install(root)
    assert not list((root / "broken-no-weights").rglob("*.safetensors"))
    assert (root / "broken-no-weights" / CONFIG).is_file()
    writing = root / "broken-still-writing"
    assert [path.name for path in writing.iterdir()] == ["checkpoint-60"]
    assert not list(writing.rglob(CONFIG))
    with pytest.raises(ValueError, match="file size differs"):
        read(writing / "checkpoint-60" / WEIGHTS)


def test_broken_adapters_are_the_same_every_time() -> None:
    assert broken_adapters(SOURCE / "pirate") == broken_adapters(SOURCE / "pirate")


def test_install_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DemoInstallError, match="restore it from the repository"):
        install(tmp_path / "target", source=tmp_path / "nothing")
    assert not (tmp_path / "target").exists()


def test_install_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DemoInstallError, match="cannot be written"):
        install(tmp_path / "file" / "adapters")


def test_install_command_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from demo.install import main;"
        f" status = main(['--adapters-dir', {str(tmp_path / 'adapters')!r}]);"
        " heavy = {'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules);"
        " sys.exit(status or len(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SOURCE.parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(RECIPES) + len(BROKEN)


def test_safetensors_round_trip_and_damage() -> None:
    tensors = {"a": Tensor("F32", (1, 2), b"12345678"), "b": Tensor("F32", (1,), b"abcd")}
    blob = pack(tensors)
    assert parse(blob) == tensors
    for end in (0, 7, 12, len(blob) - 1):
        with pytest.raises(ValueError):
            parse(blob[:end])


def write_model(folder: Path) -> None:
    """Write the files of a complete, tiny model folder."""
    folder.mkdir(parents=True)
    for name in base_model.FILES:
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(pack({"w": Tensor("F32", (1,), b"abcd")}))


def test_a_complete_base_model_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / base_model.MODEL_NAME)
    monkeypatch.setattr(base_model, "find_gguf", lambda: pytest.fail("the package is not needed"))
    assert base_model.ensure_base_model(tmp_path) == tmp_path / base_model.MODEL_NAME


@pytest.mark.parametrize("name", base_model.FILES)
def test_an_incomplete_base_model_is_noticed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / base_model.MODEL_NAME
    write_model(folder)
    assert base_model.is_complete(folder)
    (folder / name).unlink()
    assert not base_model.is_complete(folder)


def test_truncated_base_weights_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / base_model.MODEL_NAME
    write_model(folder)
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1)
    assert not base_model.is_complete(folder)


def test_a_missing_package_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "PACKAGE", "no-such-package-here")
    with pytest.raises(DemoModelError, match=r"^The package .* is not installed: run `pip install"):
        base_model.ensure_base_model(tmp_path / "models")
    assert not (tmp_path / "models").exists()
