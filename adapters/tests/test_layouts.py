"""The trees of five trainers, as rows: what is listed, how it is grouped, and what is passed over."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from adapters import services
from adapters.discovery import intake, scanning
from adapters.discovery.passed_over import REASONS, passed_over
from adapters.models import LoraAdapter, Scan
from adapters.tests import layouts as make
from adapters.training import layout

pytestmark = pytest.mark.django_db


def snapshot() -> list[tuple[Any, ...]]:
    """(name, status or failure or "incomplete", run, best, last, name of what it repeats)"""
    rows = LoraAdapter.objects.select_related("duplicate_of").order_by("path")
    rows = rows.order_by("run_name", "checkpoint", "name")
    return [
        (
            a.name,
            "incomplete" if a.incomplete else a.failure_code or a.status,
            a.run_name,
            "best" if a.is_best else "",
            "last" if a.is_last else "",
            a.duplicate_of.name if a.duplicate_of else "",
        )
        for a in rows
    ]


def test_hf_trainer(registry: Path) -> None:
    make.hf_run(registry, "poems", (10, 20, 100), best=20)
    assert services.scan(None).found == 4
    assert snapshot() == [
        ("poems", "discovered", "poems", "", "", ""),
        ("poems/checkpoint-10", "discovered", "poems", "", "", ""),
        ("poems/checkpoint-20", "discovered", "poems", "best", "", ""),
        ("poems/checkpoint-100", "discovered", "poems", "", "last", "poems"),
    ]


def test_best_by_evaluation_loss_where_training_did_not_say(registry: Path) -> None:
    run = registry / "run"
    for step in (10, 20, 30):
        make.checkpoint(run / f"checkpoint-{step}", step, seed=step)
        state = make.trainer_state(30, None)
        for entry in state["log_history"]:
            if "eval_loss" in entry:
                entry["eval_loss"] = {10: 3.0, 20: 1.0, 30: 2.0}[entry["step"]]
        make.write_json(run / f"checkpoint-{step}" / "trainer_state.json", state)
    services.scan(None)
    assert [a.checkpoint for a in LoraAdapter.objects.filter(is_best=True)] == [20]
    assert [a.checkpoint for a in LoraAdapter.objects.filter(is_last=True)] == [30]


def test_other_adapters_in_subfolders(registry: Path) -> None:
    make.adapter(registry / "multi" / "checkpoint-5" / "poet")
    make.adapter(registry / "multi" / "checkpoint-5" / "critic", seed=2)
    services.scan(None)
    assert sorted(a.name for a in LoraAdapter.objects.all()) == ["critic", "poet"]


def test_llama_factory(registry: Path) -> None:
    make.llama_factory_run(registry, "zh")
    services.scan(None)
    assert [row[:2] for row in snapshot()] == [
        ("zh", "discovered"),
        ("zh/checkpoint-50", "discovered"),
        ("zh/checkpoint-100", "discovered"),
    ]
    training = LoraAdapter.objects.get(name="zh").training
    assert training.summary["trainer"] == "LLaMA-Factory"
    assert training.summary["steps"] == 100
    assert [point["step"] for point in training.curve] == list(range(10, 101, 10))
    assert training.curve[0]["learning_rate"] == 1e-4


def test_pissa_of_llama_factory(registry: Path) -> None:
    make.pissa_run(registry, "svd")
    services.scan(None)
    found = {row[0]: row[1] for row in snapshot()}
    assert found == {"svd": "init_changes_base", "svd/pissa_converted": "discovered"}
    assert "pissa_converted" in LoraAdapter.objects.get(name="svd").failure_message


def test_axolotl(registry: Path) -> None:
    make.axolotl_run(registry, "done")
    make.axolotl_run(registry, "running", finished=False)
    services.scan(None)
    assert {row[0]: row[1] for row in snapshot()} == {
        "done": "discovered",
        "done/checkpoint-25": "discovered",
        "running": "incomplete",
        "running/checkpoint-25": "discovered",
    }


def test_unsloth(registry: Path) -> None:
    make.unsloth_run(registry, "fast")
    services.scan(None)
    assert {row[0]: row[1] for row in snapshot()} == {
        "fast/checkpoint-30": "discovered",
        "fast/lora_model": "discovered",
    }
    adapter = LoraAdapter.objects.get(name="fast/lora_model")
    assert adapter.base is not None and adapter.base.name == make.BASE_NAME
    assert adapter.flags == ["base_name_differs"]


def test_ms_swift(registry: Path) -> None:
    make.ms_swift_run(registry, "Qwen2.5-1.5B")
    services.scan(None)
    run = "Qwen2.5-1.5B/v0-20251120-031210"
    assert [row[:3] for row in snapshot()] == [
        (f"{run}/checkpoint-40", "discovered", run),
        (f"{run}/checkpoint-80", "discovered", run),
    ]
    summary = LoraAdapter.objects.get(checkpoint=80).training.summary
    assert (summary["trainer"], summary["dataset"]) == ("ms-swift", "self-cognition#500")


def test_names_and_slugs(registry: Path) -> None:
    make.adapter(registry / "777_20251120_031210")
    make.adapter(registry / "客服助手")
    make.adapter(registry / "a" / "Same Name!")
    make.adapter(registry / "b" / "Same Name!")
    make.adapter(registry / make.BASE_NAME)  # the base model has this slug already
    services.scan(None)
    slugs = {a.path_label: a.slug for a in LoraAdapter.objects.all()}
    assert slugs == {
        "adapters/777_20251120_031210": "777_20251120_031210",
        "adapters/客服助手": "客服助手",
        "adapters/a/Same Name!": "same-name",
        "adapters/b/Same Name!": "same-name-2",
        f"adapters/{make.BASE_NAME}": "tiny-llama-0.1m-2",
    }


def test_several_roots_one_inside_the_other(registry: Path, tmp_path: Path, settings: Any) -> None:
    make.adapter(registry / "deep" / "one")
    make.adapter(tmp_path / "more" / "two")
    settings.LORA_ROOTS = [registry, registry / "deep", tmp_path / "more", tmp_path / "not-there"]
    assert services.scan(None).found == 2
    assert {"code": "root_missing", "path": "not-there"} in Scan.objects.first().notes  # type: ignore[union-attr]


def test_a_root_that_goes_and_comes_back(registry: Path, tmp_path: Path) -> None:
    for name in "abc":
        make.adapter(registry / name)
    services.scan(None)
    served = services.activate(LoraAdapter.objects.get(name="a").pk, None)
    away = tmp_path / "away"
    registry.rename(away)
    assert services.scan(None).missing == 3
    assert LoraAdapter.objects.filter(missing=True).count() == 3
    served.refresh_from_db()
    assert served.status == "active"
    assert served in LoraAdapter.objects.active()
    away.rename(registry)
    assert services.scan(None).missing == 0
    assert not LoraAdapter.objects.filter(missing=True).exists()
    assert LoraAdapter.objects.count() == 3


def test_one_root_of_several(registry: Path, tmp_path: Path, settings: Any) -> None:
    other = tmp_path / "other"
    make.adapter(registry / "one")
    make.adapter(other / "two")
    settings.LORA_ROOTS = [registry, other]
    assert services.scan(None, [other]).found == 1
    assert services.scan(None, [registry]).new == 1
    shutil.rmtree(other / "two")
    assert services.scan(None, [registry]).missing == 0  # the other root was not looked at
    assert services.scan(None).missing == 1
    with pytest.raises(ValueError, match="LORA_ROOTS"):
        services.scan(None, ["/nowhere"])


def test_an_adapter_is_found_whatever_its_folder_is_called(registry: Path) -> None:
    names = (".git", ".cache", "__pycache__", "wandb", "runs", "node_modules", "site-packages", "pissa_init")
    for name in names:
        make.adapter(registry / name)
        make.adapter(registry / "deeper" / name / "one")
    assert services.scan(None).found == 2 * len(names)
    assert Scan.objects.first().notes == []  # type: ignore[union-attr]


def test_what_is_passed_over_is_told(registry: Path, settings: Any) -> None:
    make.adapter(registry / "run" / "tmp-checkpoint-5")
    make.base_model(registry / "merged")
    make.adapter(registry / "/".join("d" * 14))
    make.pissa_run(registry, "svd")
    make.adapter(registry.parent / "itself")
    settings.LORA_ROOTS = [registry, registry.parent / "itself"]
    assert services.scan(None).found == 2
    notes = Scan.objects.first().notes  # type: ignore[union-attr]
    codes = ["half_saved", "pissa_start", "pissa_start", "root_is_adapter", "too_deep"]
    assert sorted(note["code"] for note in notes) == codes
    told = passed_over()
    assert told is not None and told["count"] == 5 and not told["more"]
    assert {str(sentence) for sentence, _count, _places in told["reasons"]} == {str(REASONS[code]) for code in codes}
    settings.LORA_ROOTS = [registry.parent / "itself" / "nothing"]
    registry.parent.joinpath("itself", "nothing").mkdir()
    services.scan(None)
    assert passed_over() is None


def test_every_reason_has_a_sentence() -> None:
    source = "".join(Path(str(module.__file__)).read_text() for module in (layout, scanning, intake))
    source = source.replace("CHECK_FAILED", '"check_failed"')
    assert set(re.findall(r'note\("(\w+)"', source)) == set(REASONS)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("poems/epoch_0", "poems/epoch_0"),
        ("poems/lora_adapter", "poems/lora_adapter"),
        ("poems/final_checkpoint", "poems/final_checkpoint"),
        ("poems/global_step100", "poems/global_step100"),
        ("poems/output/best-model", "poems/output/best-model"),
        ("poems/3f2a9c0d1e", "poems/3f2a9c0d1e"),
        ("models--org--poems/snapshots/" + "0a" * 20, "models--org--poems/snapshots/" + "0a" * 20),
        ("poems/epoch_1/checkpoint-20", "poems/epoch_1/checkpoint-20"),
        ("poems/haiku-r16", "haiku-r16"),
        ("poems/最终版", "最终版"),
        ("epoch_0", "epoch_0"),
        ("outputs/final", "outputs/final"),
    ],
)
def test_a_name_that_says_nothing_carries_its_run_s(registry: Path, path: str, name: str) -> None:
    make.adapter(registry / path)
    services.scan(None)
    assert LoraAdapter.objects.get().name == name


@pytest.mark.parametrize(
    ("losses", "loss", "diverged"),
    [
        ([3.0, 2.0, float("nan"), float("inf")], None, 30),
        ([3.0, float("nan"), 2.0, 1.0], 1.0, None),
        ([float("nan")] * 4, None, 10),
    ],
)
def test_a_loss_that_is_no_number_is_kept_and_said(
    registry: Path, losses: list[float], loss: float | None, diverged: int | None
) -> None:
    make.adapter(registry / "run")
    history = [{"step": 10 * (index + 1), "loss": value} for index, value in enumerate(losses)]
    make.write_json(registry / "run" / "trainer_state.json", {"global_step": 40, "log_history": history})
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    facts = adapter.training
    assert [point["loss"] for point in facts.curve] == [value if math.isfinite(value) else None for value in losses]
    assert (facts.summary.get("loss"), facts.summary.get("diverged")) == (loss, diverged)
    assert adapter.flags == (["diverged"] if diverged else [])
    services.activate(adapter.pk, None)
    adapter.refresh_from_db()
    assert adapter.flags == (["diverged"] if diverged else [])
    history[-1]["loss"] = 1.0
    make.write_json(registry / "run" / "trainer_state.json", {"global_step": 40, "log_history": history})
    services.scan(None)
    adapter.refresh_from_db()
    assert adapter.flags == []
