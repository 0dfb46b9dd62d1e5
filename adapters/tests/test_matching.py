"""Recorded names of base models, as hubs, caches and trainers write them, and how each was understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from adapters import services
from adapters.models import BaseModel, LoraAdapter
from adapters.tests import layouts as make

pytestmark = pytest.mark.django_db

NAME = "Qwen2.5-1.5B-Instruct"
COMMIT = "989aa7980e4cf806f80c7fef2b1adb7bc71aa306"
RECORDED = [
    ("Qwen/Qwen2.5-1.5B-Instruct", "hub_id"),
    ("qwen/qwen2.5-1.5b-instruct", "hub_id"),
    ("/home/someone/.cache/modelscope/hub/models/Qwen/Qwen2___5-1___5B-Instruct", "hub_id"),
    ("/mnt/workspace/.cache/modelscope/hub/qwen/Qwen2___5-1___5B-Instruct/", "hub_id"),
    ("Qwen2___5-1___5B-Instruct", "name"),
    ("/data/models/Qwen2.5-1.5B-Instruct", "name"),
    (r"D:\models\Qwen2.5-1.5B-Instruct", "name"),
    ("someone/Qwen2.5-1.5B-Instruct", "name"),
    ("/models/Qwen2.5-1.5B-Instruct/1", "path"),
    ("/models/Qwen2.5-1.5B-Instruct/v2.0.1/", "path"),
    ("/kaggle/input/qwen2.5/transformers/1.5b-instruct/1", "path"),
    (f"/data/Qwen2.5-1.5B-Instruct/snapshots/{COMMIT}", "path"),
    (f"/data/Qwen2.5-1.5B-Instruct/{COMMIT}", "path"),
    (f"/home/someone/.cache/huggingface/hub/models--Qwen--Qwen2.5-1.5B-Instruct/snapshots/{COMMIT}", "path"),
    ("/home/someone/.cache/modelscope/hub/models/Qwen--Qwen2.5-1.5B-Instruct/snapshots/master", "path"),
    ("/home/someone/.cache/modelscope/hub/models/Qwen/Qwen2___5-1___5B-Instruct/master", "path"),
    ("unsloth/Qwen2.5-1.5B-Instruct-unsloth-bnb-4bit", "packed"),
    ("/home/someone/hub/models/unsloth/Qwen2___5-1___5B-Instruct-bnb-4bit", "packed"),
]  # fmt: skip


@pytest.fixture
def models(registry: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    make.base_model(folder / "Qwen" / NAME)
    make.base_model(folder / "Qwen2.5-7B-Instruct", num_hidden_layers=3)
    return folder


@pytest.mark.parametrize(("recorded", "by"), RECORDED)
def test_a_recorded_name(registry: Path, models: Path, recorded: str, by: str) -> None:
    make.adapter(registry / "one", base_model_name_or_path=recorded)
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    assert adapter.base is not None and (adapter.base.name, adapter.matched_by) == (NAME, by)
    assert ("base_name_differs" in adapter.flags) is (by == "packed")
    assert services.activate(adapter.pk, None).matched_by == by


def test_a_base_that_lies_in_modelscopes_own_folder(registry: Path, tmp_path: Path) -> None:
    make.base_model(tmp_path / "models" / "Qwen" / "Qwen2___5-1___5B-Instruct")
    make.adapter(registry / "one", base_model_name_or_path="Qwen/Qwen2.5-1.5B-Instruct")
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    assert adapter.base is not None and adapter.matched_by == "hub_id"


NAMELESS = ["models--", "models--org--", "x/-bnb-4bit", "-unsloth"]
OTHERS = [*NAMELESS,
          "Qwen/Qwen2.5-3B", "/out/Qwen2.5-1.5B-Instruct/checkpoint-100", "/models/1", "Qwen2.5-1.5B-Instruct/merged",
          "/models/Qwen2.5-1.5B-Instruct/final"]  # fmt: skip


@pytest.mark.parametrize("recorded", OTHERS)
def test_what_names_another_model_is_not_matched(registry: Path, models: Path, recorded: str) -> None:
    """Such as one that was trained from it, which has the same shapes."""
    make.adapter(registry / "one", base_model_name_or_path=recorded)
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    assert (adapter.failure_code, adapter.matched_by) == ("base_not_found", "")


def test_a_recorded_path_is_a_name_even_where_it_leads_to_a_base(registry: Path, models: Path, tmp_path: Path) -> None:
    """It is another machine's; what lies there on this one was not put among the models."""
    folder = tmp_path / "elsewhere" / "Some-Base"
    make.base_model(folder)
    make.adapter(registry / "one", base_model_name_or_path=str(folder))
    services.scan(None)
    assert LoraAdapter.objects.get().failure_code == "base_not_found"
    assert not BaseModel.objects.filter(path__startswith=str(tmp_path / "elsewhere")).exists()


def test_other_ways(registry: Path, models: Path, operator: User) -> None:
    make.adapter(registry / "config", base_model_name_or_path="nobody/knows")
    config = (models / "Qwen2.5-7B-Instruct" / "config.json").read_text()
    (registry / "config" / "config.json").write_text(config)
    for name in ("hand", "mapped"):
        make.adapter(registry / name, base_model_name_or_path="our/own")
    services.scan(None)
    base = BaseModel.objects.get(name=NAME)
    services.set_base(LoraAdapter.objects.get(name="hand").pk, base, operator)
    services.scan(None)
    found = {adapter.name: adapter.matched_by for adapter in LoraAdapter.objects.all()}
    assert found == {"config": "config", "hand": "hand", "mapped": "mapping"}


@pytest.mark.parametrize(("language", "words"), [("en", "ignoring the version"), ("zh-hans", "忽略末尾的版本")])
def test_the_way_is_shown(registry: Path, models: Path, operator: Any, language: str, words: str) -> None:
    make.adapter(registry / "one", base_model_name_or_path="/models/Qwen2.5-1.5B-Instruct/1")
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    client = Client()
    client.force_login(operator)
    page = client.get(f"/models/{adapter.pk}", headers={"accept-language": language}, follow=True).content.decode()
    assert words in page.partition('data-testid="matched-by"')[2].partition("</span>")[0]
    assert client.get(f"/api/lora/models/{adapter.pk}").json()["matched_by"] == "path"
