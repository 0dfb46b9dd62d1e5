"""The trees of five trainers, as rows: what is listed, how it is grouped, and what is passed over."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from adapters import services
from adapters.models import LoraAdapter, Scan
from adapters.tests import layouts as make

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


def test_what_is_no_adapter_is_passed_over(registry: Path) -> None:
    for name in (".git", ".tmp-checkpoint-5", "__pycache__", "wandb"):
        make.adapter(registry / "run" / name)
    make.base_model(registry / "merged")
    make.adapter(registry / "/".join("d" * 14))
    assert services.scan(None).found == 0
    notes = Scan.objects.first().notes  # type: ignore[union-attr]
    assert [note["code"] for note in notes] == ["too_deep"]
