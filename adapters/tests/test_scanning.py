"""Scans: incremental, honest about changes, and safe against what moves meanwhile."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from adapters import services
from adapters.discovery import intake, scanning
from adapters.leases import HeldLease
from adapters.models import AdapterEvent, BaseModel, LoraAdapter, Scan, ScanState, Status, TrainingFacts
from adapters.tests import layouts as make
from adapters.training import facts, layout

pytestmark = pytest.mark.django_db


def counts(summary: services.ScanSummary) -> tuple[int, int, int, int, int]:
    return summary.found, summary.new, summary.changed, summary.missing, summary.incomplete


def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that scans read from now on."""
    read: list[str] = []
    validate = intake.validate

    def noted(candidate: layout.AdapterFolder, *args: Any) -> Any:
        read.append(os.path.basename(candidate.path))
        return validate(candidate, *args)

    monkeypatch.setattr(intake, "validate", noted)
    return read


def test_nothing_changed_means_nothing_read_again(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.hf_run(registry, "run")
    assert counts(services.scan(None)) == (4, 4, 0, 0, 0)
    events = AdapterEvent.objects.count()

    read = looks(monkeypatch)
    assert counts(services.scan(None)) == (4, 0, 0, 0, 0)
    assert read == []
    assert AdapterEvent.objects.count() == events


def test_an_unchanged_scan_asks_little_of_the_database(registry: Path, django_assert_max_num_queries: Any) -> None:
    for number in range(30):
        make.adapter(registry / f"a{number}")
    services.scan(None)
    with django_assert_max_num_queries(30):
        services.scan(None)


def test_training_facts_are_read_outside_of_a_transaction(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of a whole batch take seconds, and would keep everybody else from writing to SQLite."""
    make.hf_run(registry, "run")
    read, within, real = set(), len(connection.savepoint_ids), facts.read_facts

    def noted(*args: Any) -> Any:
        read.add(len(connection.savepoint_ids))
        return real(*args)

    monkeypatch.setattr(facts, "read_facts", noted)
    services.scan(None)
    assert read == {within} and TrainingFacts.objects.exists()


def test_changes_are_noticed(registry: Path) -> None:
    make.adapter(registry / "one")
    services.scan(None)
    before = LoraAdapter.objects.get()
    make.adapter(registry / "one", make.lora_tensors(rank=2), r=2)
    assert counts(services.scan(None)) == (1, 0, 1, 0, 0)
    after = LoraAdapter.objects.get()
    assert (before.pk, before.slug) == (after.pk, after.slug)
    assert (before.rank, after.rank) == (4, 2)
    assert AdapterEvent.objects.filter(adapter=after, kind="changed").count() == 1
    (registry / "one" / "adapter_model.safetensors").write_bytes(b"short")
    services.scan(None)
    after.refresh_from_db()
    assert (after.status, after.failure_code) == (Status.FAILED, "weights_truncated")
    make.adapter(registry / "one")
    services.scan(None)
    after.refresh_from_db()
    assert (after.status, after.failure_code) == (Status.DISCOVERED, "")
    kinds = list(AdapterEvent.objects.filter(adapter=after).order_by("pk").values_list("kind", flat=True))
    assert kinds == ["discovered", "changed", "changed", "failed", "changed", "recovered"]


def test_a_growing_folder(registry: Path, settings: Any) -> None:
    """Training writes card, weights and config one after the other, a piece at a time; a scan after each."""
    settings.SCAN_SETTLE_SECONDS = 30.0
    whole = make.adapter(registry.parent / "whole")
    data = (whole / "adapter_model.safetensors").read_bytes()
    folder = registry / "run"
    folder.mkdir()
    (folder / "README.md").write_text("card")
    assert services.scan(None).found == 0
    for end in (0, 5, 100, len(data) // 2, len(data)):
        (folder / "adapter_model.safetensors").write_bytes(data[:end])
        assert services.scan(None).incomplete == 1
        adapter = LoraAdapter.objects.get()
        assert (adapter.status, adapter.failure_code) == (Status.DISCOVERED, "")
        with pytest.raises(services.ActivationFailed, match="incomplete"):
            services.activate(adapter.pk, None)
    shutil.copy(whole / "adapter_config.json", folder / "adapter_config.json")
    assert services.scan(None).incomplete == 1
    make.age(folder)
    assert services.scan(None).incomplete == 0
    assert services.activate(adapter.pk, None).status == Status.ACTIVE


def test_a_base_that_appears_settles_what_waited_for_it(registry: Path, tmp_path: Path) -> None:
    make.adapter(registry / "one", base_model_name_or_path="org/Late")
    services.scan(None)
    assert LoraAdapter.objects.get().failure_code == "base_not_found"
    make.base_model(tmp_path / "models" / "Late", _name_or_path="org/Late")
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    assert (adapter.status, adapter.failure_code) == (Status.DISCOVERED, "")
    shutil.rmtree(tmp_path / "models" / "Late")
    services.scan(None)
    assert BaseModel.objects.get(name="Late").missing
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "base_not_found"


def test_links_that_leave_the_root(registry: Path, tmp_path: Path) -> None:
    outside = make.adapter(tmp_path / "outside")
    (registry / "folder").symlink_to(outside)
    inside = registry / "inside"
    inside.mkdir()
    shutil.copy(outside / "adapter_config.json", inside)
    (inside / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    loop = registry / "loop"
    loop.mkdir()
    (loop / "again").symlink_to(registry)
    assert services.scan(None).found == 1
    adapter = LoraAdapter.objects.get()
    assert (adapter.name, adapter.failure_code) == ("inside", "outside_root")
    assert [note["code"] for note in Scan.objects.first().notes] == ["outside_root"]  # type: ignore[union-attr]


def test_links_within_the_root_are_followed(registry: Path) -> None:
    blobs = registry / "blobs"
    blobs.mkdir()
    folder = make.adapter(registry / "one")
    (folder / "adapter_model.safetensors").rename(blobs / "abc")
    (folder / "adapter_model.safetensors").symlink_to("../blobs/abc")
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    assert adapter.failure_code == ""
    assert services.activate(adapter.pk, None).status == Status.ACTIVE


def test_a_link_swapped_in_after_the_scan(registry: Path, tmp_path: Path) -> None:
    make.adapter(registry / "one")
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    outside = make.adapter(tmp_path / "outside", seed=7)
    weights = registry / "one" / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to(outside / "adapter_model.safetensors")
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "outside_root"
    shutil.rmtree(registry / "one")
    (registry / "one").symlink_to(outside)
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "files_missing"


def test_a_link_swapped_in_between_check_and_open(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is resolved, then a folder on it becomes a link to elsewhere, then it is opened."""
    from adapters.formats import files

    make.adapter(registry / "one")
    outside = make.adapter(tmp_path / "outside")
    real = os.path.realpath

    def swapping(path: Any, **options: Any) -> str:
        found = real(path, **options)
        if str(path).endswith("adapter_config.json") and not (registry / "one").is_symlink():
            shutil.rmtree(registry / "one")
            (registry / "one").symlink_to(outside)
        return found

    monkeypatch.setattr(files.os.path, "realpath", swapping)
    with pytest.raises(services.Refused) as caught:
        files.read_small((str(registry),), registry / "one", "adapter_config.json", 10_000)
    assert caught.value.code in {"outside_root", "files_missing"}


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_what_is_not_a_file(registry: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make.adapter(registry / "one")
    path = folder / "adapter_model.safetensors"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(folder)  # the name of a socket may not be long
            server.bind("adapter_model.safetensors")
    services.scan(None)
    codes = {"pipe": "not_a_file", "socket": "unreadable", "folder": "weights_missing"}
    assert LoraAdapter.objects.get().failure_code == codes[kind]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_cannot_be_read(registry: Path) -> None:
    folder = make.adapter(registry / "one")
    (folder / "adapter_model.safetensors").chmod(0)
    services.scan(None)
    assert LoraAdapter.objects.get().failure_code == "unreadable"


def test_code_beside_an_adapter_is_flagged_and_never_run(registry: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = make.adapter(registry / "one", auto_map={"AutoModel": "evil.Evil"})
    for name in ("evil.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text(f"open({str(canary)!r}, 'w').close()")
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth"):
        (folder / name).write_bytes(b"cbuiltins\nexec\n(S'open(\"" + str(canary).encode() + b'", "w")\'\ntR.')
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    assert adapter.flags == ["contains_code"]
    adapter = services.activate(adapter.pk, None)
    assert sorted(p.name for p in adapter.store_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not canary.exists()


@pytest.mark.parametrize("where", ["beside it", "in its config"])
def test_code_is_flagged_wherever_it_is_named(registry: Path, where: str) -> None:
    if where == "beside it":
        (make.adapter(registry / "one") / "model.py").touch()
    else:
        make.adapter(registry / "one", auto_map={"AutoModel": "model.Model"})
    services.scan(None)
    assert LoraAdapter.objects.get().flags == ["contains_code"]


def test_names_with_control_characters(registry: Path) -> None:
    make.adapter(registry / "bad\nname")
    make.adapter(registry / "\x1b[31mred")
    make.adapter(registry / "fine")
    os.makedirs(os.fsencode(registry) + b"/\xff\xfe")
    assert services.scan(None).found == 1
    notes = Scan.objects.first().notes  # type: ignore[union-attr]
    assert [note["code"] for note in notes] == ["bad_name"] * 3
    assert all(note["path"].isprintable() for note in notes)


def test_one_scan_at_a_time(registry: Path) -> None:
    with HeldLease(scanning.LEASE):
        with pytest.raises(services.BusyError) as caught:
            services.scan(None)
        assert caught.value.code == "scan_running"
        with pytest.raises(CommandError):
            call_command("scan_adapters")
    services.scan(None)


def test_a_scan_that_died_is_told_as_failed(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Scan.objects.create()
    found = services.latest_scan()
    assert found is not None and found.state == ScanState.FAILED

    def broken(self: Any, root: str) -> Any:
        raise RuntimeError("disk on fire")

    with monkeypatch.context() as patched:
        patched.setattr(layout.Walk, "candidates", broken)
        with pytest.raises(RuntimeError):
            services.scan(None)
    assert Scan.objects.first().state == ScanState.FAILED  # type: ignore[union-attr]
    services.scan(None)  # the lock was let go


def test_an_adapter_that_is_forgotten_during_a_scan(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        make.adapter(registry / name)
    services.scan(None)
    for name in ("one", "two"):
        make.adapter(registry / name, seed=4)
    validate = intake.validate

    def forgetting(*args: Any) -> Any:
        LoraAdapter.objects.filter(name="one").delete()
        return validate(*args)

    with monkeypatch.context() as patched:
        patched.setattr(intake, "validate", forgetting)
        services.scan(None)
    assert [a.name for a in LoraAdapter.objects.all()] == ["two"]
    assert services.scan(None).new == 1


def test_progress_is_told(registry: Path) -> None:
    make.hf_run(registry, "run")
    reported: list[tuple[str, int, int]] = []
    services.scan(None, progress=lambda stage, done, total: reported.append((stage, done, total)))
    assert reported[0][0] == "bases"


def test_the_command(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make.adapter(registry / "one")
    call_command("scan_adapters", "--json", "--root", str(registry))
    assert '"found": 1' in capsys.readouterr().out
    with pytest.raises(CommandError, match="LORA_ROOTS"):
        call_command("scan_adapters", "--root", "/nowhere")


def test_only_a_row_that_changed_is_told_as_changed(registry: Path) -> None:
    make.adapter(registry / "one")
    services.scan(None)
    before = LoraAdapter.objects.get().updated_at
    services.scan(None)
    assert LoraAdapter.objects.get().updated_at == before
    make.adapter(registry / "one", seed=4)
    services.scan(None)
    assert LoraAdapter.objects.get().updated_at > before


ODD_FACTS = [[5], {"a": 1}, 10**400, "10", True, None]


@pytest.mark.parametrize("odd", ODD_FACTS, ids=lambda value: str(value)[:10])
def test_training_facts_of_odd_types(registry: Path, odd: object) -> None:
    folder = make.checkpoint(registry / "run" / "checkpoint-10", 10)
    keys = ("step", "eval_loss", "loss", "epoch", "learning_rate", "current_steps")
    state = dict.fromkeys(("global_step", "max_steps", "best_metric", "best_global_step", "epoch"), odd)
    entries = [dict.fromkeys(keys, odd), {"step": odd, "eval_loss": 1.0}, {"step": 10, "eval_loss": odd}]
    make.write_json(folder / "trainer_state.json", {**state, "log_history": entries, "best_model_checkpoint": odd})
    make.write_json(folder / "args.json", {"model": odd, "dataset": odd, "per_device_train_batch_size": odd})
    assert services.scan(None).new == 1
    assert LoraAdapter.objects.get().status == Status.DISCOVERED


def test_activating_again_shows_what_is_served_now(registry: Path) -> None:
    make.adapter(registry / "one")
    services.scan(None)
    pk = services.activate(LoraAdapter.objects.get().pk, None).pk
    make.adapter(registry / "one", make.lora_tensors(rank=2), r=2)
    services.scan(None)
    assert LoraAdapter.objects.get().rank == 4, "the stored copy's"
    assert services.activate(pk, None).rank == 2 and LoraAdapter.objects.get().rank == 2
