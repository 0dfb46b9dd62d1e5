"""Activate, deactivate, activate again, forget, delete: what is served and what stays on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from adapters import hooks, services, store
from adapters.leases import HeldLease
from adapters.lifecycle import activation, cleaning, proofs
from adapters.models import AdapterEvent, BaseMapping, BaseModel, Lease, LoraAdapter, Status
from adapters.tests import layouts as make
from adapters.tests.conftest import RecordingSide

pytestmark = pytest.mark.django_db


@pytest.fixture
def released(running_side: RecordingSide) -> list[tuple[str, str]]:
    """(digest, reason) of everything that was taken out of service."""
    return running_side.heard


def found(name: str = "one") -> LoraAdapter:
    services.scan(None)
    return LoraAdapter.objects.get(name=name)


def active(registry: Path, name: str = "one", seed: int = 0) -> LoraAdapter:
    make.adapter(registry / name, seed=seed)
    return services.activate(found(name).pk, None)


def test_what_is_served_is_a_copy(registry: Path, operator: Any) -> None:
    folder = make.adapter(registry / "one")
    weights = (folder / "adapter_model.safetensors").read_bytes()
    adapter = services.activate(found().pk, operator)
    assert adapter.status == Status.ACTIVE
    assert adapter.store_path == store.entry(adapter.digest)
    assert (adapter.store_path / "adapter_model.safetensors").read_bytes() == weights
    assert store.verify(adapter.digest)
    event = AdapterEvent.objects.get(adapter=adapter, kind="activated")
    assert (event.actor, event.from_status, event.to_status) == (operator, "discovered", "active")
    for damage in ("truncate", "delete"):
        if damage == "truncate":
            os.truncate(folder / "adapter_model.safetensors", 100)
        else:
            shutil.rmtree(folder)
        services.scan(None)
        adapter.refresh_from_db()
        assert (adapter.status, adapter.update_available) == (Status.ACTIVE, False)
        assert adapter.missing is (damage == "delete")
        assert ("source_broken" in adapter.flags) or damage == "delete"
        assert (adapter.store_path / "adapter_model.safetensors").read_bytes() == weights
        assert services.activate(adapter.pk, None).status == Status.ACTIVE if damage == "delete" else True


def test_a_lock_that_was_lost_while_a_copy_is_promoted(
    registry: Path, running_side: RecordingSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    def promote(stored: hooks.Stored) -> hooks.Promotion:
        Lease.objects.update(token="another's")
        return hooks.Promotion()

    monkeypatch.setattr("adapters.leases.TOUCH_EVERY", 0.0)
    monkeypatch.setattr(running_side, "promote", promote)
    with pytest.raises(services.BusyError):
        active(registry)
    assert LoraAdapter.objects.get(name="one").status == Status.DISCOVERED


def test_the_digest_is_what_sha256sum_says(registry: Path) -> None:
    adapter = active(registry)
    names = ["adapter_config.json", "adapter_model.safetensors"]
    printed = subprocess.run(["sha256sum", *names], cwd=adapter.store_path, capture_output=True, check=True).stdout
    assert hashlib.sha256(printed).hexdigest() == adapter.digest


def test_only_a_base_that_changed_has_all_of_them_looked_at(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    refresh = activation.refresh
    monkeypatch.setattr(activation, "refresh", lambda: looks.append(refresh()))
    adapter = active(registry)
    assert adapter.base is not None and not looks
    (Path(adapter.base.path) / "README.md").write_text("new")
    active(registry, "two", seed=1)
    assert not looks, "the scan has seen it"
    make.adapter(registry / "three", seed=2)
    third = found("three")
    (Path(adapter.base.path) / "README.md").write_text("newer")
    services.activate(third.pk, None)
    assert len(looks) == 1


def test_activating_twice_changes_nothing(registry: Path) -> None:
    adapter = active(registry)
    events = AdapterEvent.objects.count()
    again = services.activate(adapter.pk, None)
    assert (again.digest, again.activated_at) == (adapter.digest, adapter.activated_at)
    assert AdapterEvent.objects.count() == events


def test_retraining_and_activating_again(registry: Path, released: list[tuple[str, str]]) -> None:
    adapter = active(registry)
    old = adapter.digest
    make.adapter(registry / "one", seed=5)
    assert found().update_available
    adapter.refresh_from_db()
    assert adapter.digest == old  # until somebody says so
    adapter = services.activate(adapter.pk, None)
    assert adapter.digest != old and not adapter.update_available
    assert released == [(old, "replaced")]
    assert store.has(old)  # requests in flight end on it


def test_a_touched_file_is_no_update(registry: Path) -> None:
    adapter = active(registry)
    make.age(registry / "one", 50)
    assert not found().update_available
    assert services.activate(adapter.pk, None).digest == adapter.digest


def test_a_broken_update_leaves_the_old_copy_served(registry: Path, released: list[tuple[str, str]]) -> None:
    adapter = active(registry)
    make.adapter(registry / "one", make.lora_tensors(b_fill=0.0))
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "no_effect"
    adapter.refresh_from_db()
    assert adapter.status == Status.ACTIVE and store.has(adapter.digest)
    assert released == []
    assert AdapterEvent.objects.filter(adapter=adapter, kind="refused", code="no_effect").exists()


def test_deactivate(registry: Path, operator: Any, released: list[tuple[str, str]]) -> None:
    adapter = active(registry)
    digest = adapter.digest
    for _ in range(2):
        adapter = services.deactivate(adapter.pk, operator)
        assert (adapter.status, adapter.digest) == (Status.DISCOVERED, "")
    assert released == [(digest, "deactivated")]
    assert services.activate(adapter.pk, operator).digest == digest


def test_the_same_content_twice_is_released_last(registry: Path, released: list[tuple[str, str]]) -> None:
    one, two = active(registry, "one"), active(registry, "two")
    assert one.digest == two.digest
    services.deactivate(one.pk, None)
    assert released == []
    services.deactivate(two.pk, None)
    assert released == [(one.digest, "deactivated")]


def test_retry_after_a_repair(registry: Path) -> None:
    make.adapter(registry / "one", make.lora_tensors(b_fill=0.0))
    adapter = found()
    with pytest.raises(services.ActivationFailed):
        services.activate(adapter.pk, None)
    make.adapter(registry / "one")
    assert services.activate(adapter.pk, None).status == Status.ACTIVE
    kinds = AdapterEvent.objects.filter(adapter=adapter).order_by("pk").values_list("kind", flat=True)
    assert list(kinds) == ["discovered", "failed", "activated"]


def test_guarded_transitions(registry: Path) -> None:
    active(registry)
    stale, other = LoraAdapter.objects.get(), LoraAdapter.objects.get()
    assert other.mark_inactive(None)
    assert not stale.mark_inactive(None)
    assert not stale.mark_failed(None, "no_effect")
    assert AdapterEvent.objects.filter(kind="deactivated").count() == 1
    assert not AdapterEvent.objects.filter(kind="failed").exists()


def test_two_at_once(registry: Path) -> None:
    make.adapter(registry / "one")
    adapter = found()
    with HeldLease(f"adapter:{adapter.pk}"):
        for service in (services.activate, services.deactivate, services.forget):
            with pytest.raises(services.BusyError):
                service(adapter.pk, None)
    assert services.activate(adapter.pk, None).status == Status.ACTIVE


def test_a_store_that_cannot_be_written(registry: Path, tmp_path: Path, settings: Any) -> None:
    make.adapter(registry / "one")
    adapter = found()
    settings.STORE_DIR = tmp_path / "file" / "store"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "store_unwritable"
    adapter.refresh_from_db()
    assert adapter.status == Status.DISCOVERED  # not the adapter's fault


def test_a_full_disk_leaves_nothing_behind(registry: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make.adapter(registry / "one")
    adapter = found()

    def full(file: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_write", full)
        with pytest.raises(services.ActivationFailed) as caught:
            services.activate(adapter.pk, None)
    assert caught.value.code == "store_full"
    assert list(settings.STORE_DIR.iterdir()) == []
    assert services.activate(adapter.pk, None).status == Status.ACTIVE


def test_files_that_change_during_the_copy(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make.adapter(registry / "one")
    adapter = found()
    put = store.put

    def slow(*args: Any) -> str:
        digest = put(*args)
        make.write_json(folder / "adapter_config.json", make.config(lora_alpha=99))
        return digest

    monkeypatch.setattr(store, "put", slow)
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "changed_meanwhile"
    adapter.refresh_from_db()
    assert adapter.status == Status.DISCOVERED


def test_a_lost_copy_is_made_again_or_told(registry: Path, settings: Any) -> None:
    one, two = active(registry, "one"), active(registry, "two", seed=3)
    shutil.rmtree(settings.STORE_DIR)
    shutil.rmtree(registry / "two")
    services.scan(None)
    one.refresh_from_db()
    two.refresh_from_db()
    assert one.status == Status.ACTIVE and store.verify(one.digest)
    assert (two.status, two.failure_code) == (Status.FAILED, "store_lost")


def test_proofs(registry: Path, released: list[tuple[str, str]]) -> None:
    adapter = active(registry)
    assert proofs.record_proof(adapter.digest, True, kl=0.25, changed=0.5) == 1
    adapter.refresh_from_db()
    assert (adapter.effect_kl, adapter.effect_changed) == (0.25, 0.5)
    services.deactivate(adapter.pk, None)
    assert services.activate(adapter.pk, None).effect_kl == 0.25  # the same content was proven before
    proofs.record_use(adapter.digest, tokens=7)
    adapter.refresh_from_db()
    assert (adapter.use_count, adapter.use_tokens) == (1, 7)
    assert proofs.record_proof(adapter.digest, False, "no_effect", "same logits") == 1
    adapter.refresh_from_db()
    assert (adapter.status, adapter.failure_code, adapter.digest) == (Status.FAILED, "no_effect", "")
    assert proofs.record_proof(adapter.digest, False, "no_effect") == 0
    services.scan(None)
    adapter.refresh_from_db()
    assert adapter.failure_code == "no_effect"


def test_forget(registry: Path, operator: Any, released: list[tuple[str, str]]) -> None:
    adapter = active(registry)
    pk, digest = adapter.pk, adapter.digest
    services.forget(pk, operator)
    assert not LoraAdapter.objects.exists()
    assert released == [(digest, "forgotten")]
    assert (registry / "one" / "adapter_config.json").exists()
    event = AdapterEvent.objects.get(kind="forgotten")
    assert (event.adapter_name, event.actor_name) == ("one", "operator")
    assert services.scan(None).new == 1


def test_delete_files(registry: Path, operator: Any) -> None:
    make.hf_run(registry, "run")
    make.adapter(registry / "other")
    run = found("run")
    for word in ("", "Run", "run "):
        with pytest.raises(services.NotConfirmed):
            services.delete_files(run.pk, operator, word)
    services.delete_files(LoraAdapter.objects.get(name="run/checkpoint-10").pk, operator, "run/checkpoint-10")
    assert not (registry / "run" / "checkpoint-10").exists()
    services.delete_files(run.pk, operator, "run")  # its checkpoints are other adapters
    assert sorted(p.name for p in (registry / "run").iterdir()) == ["checkpoint-100", "checkpoint-20"]
    assert (registry / "other" / "adapter_config.json").exists()
    assert services.scan(None).found == 3
    assert LoraAdapter.objects.filter(missing=True).count() == 0


def test_deletion_never_leaves_the_root(registry: Path, tmp_path: Path) -> None:
    make.adapter(registry / "one")
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "gold").write_text("gold")
    (registry / "one" / "link").symlink_to(treasure)
    adapter = found()
    LoraAdapter.objects.filter(pk=adapter.pk).update(path=str(treasure))
    with pytest.raises(services.Refused):
        services.delete_files(adapter.pk, None, "one")
    LoraAdapter.objects.filter(pk=adapter.pk).update(path=str(registry))
    with pytest.raises(services.Refused):
        services.delete_files(adapter.pk, None, "one")
    LoraAdapter.objects.filter(pk=adapter.pk).update(path=str(registry / "one"))
    services.delete_files(adapter.pk, None, "one")
    assert not (registry / "one").exists()
    assert (treasure / "gold").read_text() == "gold"


def test_an_adapter_in_use_is_drained_first(
    registry: Path, running_side: RecordingSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = active(registry)
    asked: list[tuple[str, float]] = []

    def drain(digest: str, timeout: float) -> bool:
        asked.append((digest, timeout))
        return len(asked) > 1

    monkeypatch.setattr(running_side, "drain", drain)
    digest = adapter.digest
    with pytest.raises(services.BusyError) as caught:
        services.delete_files(adapter.pk, None, "one")
    assert caught.value.code == "in_use"
    assert (registry / "one").exists()
    adapter.refresh_from_db()
    assert adapter.status == Status.DISCOVERED  # takes no new requests
    services.activate(adapter.pk, None)
    services.forget(adapter.pk, None)
    assert [d for d, _ in asked] == [digest, digest]
    assert 0 < asked[0][1] <= hooks.DRAIN_TIMEOUT


def test_clean_store(registry: Path, settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    kept, gone = active(registry, "one"), active(registry, "two", seed=4)
    old = gone.digest
    services.deactivate(gone.pk, None)
    stranger = settings.STORE_DIR / "something-else"
    stranger.mkdir()
    partial = settings.STORE_DIR / ".partial-x"
    partial.mkdir()
    call_command("clean_store", "--dry-run")
    assert old in capsys.readouterr().out and store.has(old)
    call_command("clean_store")
    assert not store.has(old) and store.has(kept.digest)
    assert stranger.exists() and partial.exists()  # not ours; still young
    os.utime(partial, (0, 0))
    assert [item.name for item in services.clean()] == [".partial-x"]


def test_cleaning_and_activating_exclude_each_other(registry: Path) -> None:
    make.adapter(registry / "one")
    adapter = found()
    with HeldLease("adapter:999"), pytest.raises(services.BusyError):
        services.clean()
    with HeldLease(cleaning.CLEANING), pytest.raises(services.BusyError):
        services.activate(adapter.pk, None)
    assert not Lease.objects.exists()


def test_base_by_hand_is_remembered(registry: Path, tmp_path: Path, operator: Any) -> None:
    recorded = "/mnt/training/my-local-copy"
    for name in ("one", "two"):
        make.adapter(registry / name, base_model_name_or_path=recorded)
    adapter = found()
    assert adapter.failure_code == "base_not_found"
    base = BaseModel.objects.get()
    adapter = services.set_base(adapter.pk, base, operator)
    assert (adapter.status, adapter.base, adapter.base_by_hand) == (Status.DISCOVERED, base, True)
    assert BaseMapping.objects.get().recorded == recorded
    make.adapter(registry / "three", base_model_name_or_path=recorded)
    services.scan(None)
    assert {a.failure_code for a in LoraAdapter.objects.all()} == {""}
    assert services.activate(adapter.pk, operator).base == base
    with pytest.raises(services.BusyError):
        services.set_base(adapter.pk, None, operator)
    services.deactivate(adapter.pk, operator)
    adapter = services.set_base(adapter.pk, None, operator)
    assert adapter.failure_code == "base_not_found"
    assert not BaseMapping.objects.exists()


def test_a_wrong_base_by_hand_is_refused_by_its_shapes(registry: Path, tmp_path: Path) -> None:
    make.base_model(tmp_path / "models" / "Wider", hidden=32)
    make.adapter(registry / "one")
    adapter = found()
    adapter = services.set_base(adapter.pk, BaseModel.objects.get(name="Wider"), None, remember=False)
    assert adapter.failure_code == "base_mismatch"
    assert not BaseMapping.objects.exists()


def test_edit(registry: Path, operator: Any) -> None:
    make.adapter(registry / "one")
    make.adapter(registry / "two")
    adapter = found()
    changed = services.edit(adapter.pk, operator, name="One", notes="n", slug="my.one", tags=[" B", "a", "b"])
    assert [tag.name for tag in changed.tags.all()] == ["a", "b"]
    event = AdapterEvent.objects.get(kind="edited")
    assert event.details["before"] == {"name": "one", "notes": "", "slug": "one", "tags": []}
    services.edit(adapter.pk, operator, name="One", tags=["a", "b"])
    assert AdapterEvent.objects.filter(kind="edited").count() == 1
    for slug in ("two", "tiny-llama-0.1m"):
        with pytest.raises(services.SlugTaken):
            services.edit(adapter.pk, operator, slug=slug)
    for slug in ("", "Upper", "a/b", "-a", "a b", "x" * 129, "../x"):
        with pytest.raises(services.SlugInvalid):
            services.edit(adapter.pk, operator, slug=slug)
    services.scan(None)
    adapter.refresh_from_db()
    assert (adapter.name, adapter.slug) == ("One", "my.one")  # scans leave both alone


def test_imported_rows_meet_their_folders(registry: Path) -> None:
    def imported(pk: int, name: str, path: str, status: str) -> None:
        LoraAdapter.objects.create(
            pk=pk, name=name, slug=f"old-{pk}", path=path, path_hash=f"legacy{pk}", status=status, notes="kept"
        )

    imported(70, "seven", "Models/LoRA/777_20251120_031210", "active")
    imported(71, "gone", "Models/LoRA/gone", "active")
    imported(72, "zero", "C:\\out\\zero", "active")
    make.adapter(registry / "777_20251120_031210")
    make.adapter(registry / "zero", make.lora_tensors(b_fill=0.0))
    assert not LoraAdapter.objects.active().exists()
    summary = services.scan(None)
    assert (summary.new, summary.missing) == (0, 1)
    rows = LoraAdapter.objects.in_bulk()
    assert (rows[70].status, rows[70].notes, rows[70].name) == (Status.ACTIVE, "kept", "seven")
    assert store.verify(rows[70].digest)
    assert (rows[71].status, rows[71].missing, rows[71].digest) == (Status.ACTIVE, True, "")
    assert (rows[72].status, rows[72].failure_code) == (Status.FAILED, "no_effect")
    assert set(LoraAdapter.objects.active()) == {rows[70]}
