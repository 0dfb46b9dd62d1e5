"""Runs that were moved or renamed keep what belongs to them; the same adapter in two places is one in the list."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from adapters import services
from adapters.models import AdapterEvent, LoraAdapter, Status, Tag
from adapters.tests import layouts as make

pytestmark = pytest.mark.django_db


def noted(name: str, activate: bool = False) -> LoraAdapter:
    adapter = LoraAdapter.objects.get(name=name)
    if activate:
        adapter = services.activate(adapter.pk, None)
    LoraAdapter.objects.filter(pk=adapter.pk).update(notes="mine")
    adapter.tags.add(Tag.objects.create(name="good"))
    return adapter


def copied(source: Path, to: Path) -> None:
    """As on another disk: other inodes, other times."""
    shutil.copytree(source, to, copy_function=shutil.copy)
    shutil.rmtree(source)
    for folder in (to, *to.rglob("checkpoint-*")):
        make.age(folder)


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("how", [shutil.move, copied])
@pytest.mark.parametrize("to", ["renamed", "deeper/folder/run"])
def test_a_moved_adapter_keeps_what_belongs_to_it(registry: Path, activate: bool, how: Any, to: str) -> None:
    make.adapter(registry / "run")
    services.scan(None)
    before = noted("run", activate)
    events = list(before.events.values_list("pk", flat=True))
    (registry / to).parent.mkdir(parents=True, exist_ok=True)
    how(registry / "run", registry / to)
    summary = services.scan(None)
    assert (summary.found, summary.new, summary.changed, summary.missing) == (1, 0, 0, 0)
    after = LoraAdapter.objects.get()
    assert (after.pk, after.slug, after.notes, after.status) == (before.pk, "run", "mine", before.status)
    assert (after.path, after.missing) == (str(registry / to), False)
    assert [tag.name for tag in after.tags.all()] == ["good"]
    assert after.name == {"renamed": "renamed", "deeper/folder/run": "folder/run"}[to]
    kinds = list(AdapterEvent.objects.filter(adapter=after).exclude(pk__in=events).values_list("kind", flat=True))
    assert kinds == ["moved"] and AdapterEvent.objects.count() == len(events) + 1
    assert (services.scan(None).new, LoraAdapter.objects.get().pk) == (0, before.pk)


def test_a_whole_run_moves_to_another_root(registry: Path, tmp_path: Path, settings: Any) -> None:
    make.hf_run(registry, "run")
    other = tmp_path / "other"
    other.mkdir()
    settings.LORA_ROOTS = [registry, other]
    services.scan(None)
    before = dict(LoraAdapter.objects.values_list("checkpoint", "pk"))
    shutil.move(registry / "run", other / "again")
    assert services.scan(None).new == 0
    assert dict(LoraAdapter.objects.values_list("checkpoint", "pk")) == before
    rows = LoraAdapter.objects.order_by("checkpoint").values_list("name", "run_name", "is_best", "missing")
    assert {(run, missing) for _name, run, _best, missing in rows} == {("again", False)}
    assert LoraAdapter.objects.get(is_best=True).checkpoint == 20


def test_a_name_that_was_given_stays(registry: Path) -> None:
    make.adapter(registry / "run")
    services.scan(None)
    LoraAdapter.objects.update(name="My best")
    shutil.move(registry / "run", registry / "elsewhere")
    services.scan(None)
    assert LoraAdapter.objects.get().name == "My best"


def test_one_that_went_missing_first(registry: Path) -> None:
    make.adapter(registry / "run")
    services.scan(None)
    shutil.move(registry / "run", registry.parent / "away")
    assert services.scan(None).missing == 1
    shutil.move(registry.parent / "away", registry / "back")
    assert services.scan(None).missing == 0
    assert LoraAdapter.objects.get().path == str(registry / "back")


def test_what_is_not_certain_is_not_followed(registry: Path, tmp_path: Path, settings: Any) -> None:
    other = tmp_path / "other"
    make.adapter(other / "on-a-disk", seed=2)
    settings.LORA_ROOTS = [registry, other]
    make.adapter(registry / "twice", seed=1)
    make.adapter(registry / "changed", seed=3)
    services.scan(None)
    before = set(LoraAdapter.objects.values_list("pk", flat=True))
    shutil.copytree(registry / "twice", registry / "one")
    shutil.move(registry / "twice", registry / "two")  # which of the two is it?
    shutil.copytree(other / "on-a-disk", registry / "copy")
    shutil.move(other, tmp_path / "unmounted")  # its root is not there: it may come back
    shutil.rmtree(registry / "changed")
    make.adapter(registry / "changed-and-moved", seed=4)
    assert services.scan(None).new == 4
    assert set(LoraAdapter.objects.filter(missing=True).values_list("pk", flat=True)) == before


def test_an_empty_root_may_be_a_disk_that_is_not_mounted(registry: Path, tmp_path: Path, settings: Any) -> None:
    disk = tmp_path / "disk"
    make.adapter(disk / "run")
    settings.LORA_ROOTS = [registry, disk]
    services.scan(None)
    before = noted("run")
    copied(disk / "run", registry / "copy")  # the disk's own is hidden while it is not mounted
    assert services.scan(None).new == 1
    before.refresh_from_db()
    assert (before.path, before.missing, before.notes) == (str(disk / "run"), True, "mine")


def names(client: Client, query: str = "") -> list[str]:
    page = client.get(f"/models{query}").content.decode()
    return re.findall(r'data-testid="model-row"[^>]*data-name="([^"]*)"', page)


def places(client: Client) -> list[str]:
    page = client.get("/models").content.decode()
    return re.findall(r'data-testid="also-at">.*?title="([^"]*)"', page)


def test_the_same_in_two_roots_is_shown_once(registry: Path, tmp_path: Path, settings: Any, operator: User) -> None:
    client = Client()
    client.force_login(operator)
    other = tmp_path / "other"
    make.adapter(registry / "run")
    make.adapter(registry / "alone", seed=5)
    make.adapter(registry / "other-alpha", lora_alpha=2)
    make.hf_run(registry, "long")
    shutil.copytree(registry / "run", other / "run")
    shutil.copytree(registry / "long", other / "long")
    for folder in (other / "run", other / "long", *(other / "long").glob("*-*")):
        make.age(folder)
    settings.LORA_ROOTS = [registry, other]
    services.scan(None)
    assert sorted(names(client)) == ["alone", "long", "other-alpha", "run"]
    assert sorted(places(client)) == ["other/long", "other/run"]
    assert len(names(client, "?search=run")) == 1
    twin = LoraAdapter.objects.get(path=str(other / "run"))
    assert "adapters/run" in client.get(f"/models/{twin.pk}").content.decode()
    services.activate(twin.pk, None)  # what is served is shown
    assert sorted(names(client)) == ["alone", "long", "other-alpha", "run"]
    assert sorted(places(client)) == ["adapters/run", "other/long"]
    shutil.rmtree(registry / "run")
    services.scan(None)
    assert LoraAdapter.objects.get(path=str(registry / "run")).missing
    assert sorted(places(client)) == ["other/long", "other/run"], "what is missing lies there still"
    assert LoraAdapter.objects.get(pk=twin.pk).status == Status.ACTIVE
