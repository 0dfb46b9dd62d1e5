"""A stored copy that is not what its name says is found, made again where that can be, and told where it cannot."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from adapters import services, store
from adapters.discovery import periodic_scan
from adapters.leases import HeldLease, adapter_lock
from adapters.lifecycle import checking, cleaning, mending, notes
from adapters.lifecycle.mending import Outcome, mend
from adapters.models import AdapterEvent, LoraAdapter, Status
from adapters.tests import layouts as make
from adapters.tests.conftest import RecordingSide
from adapters.tests.test_conversion import bin_adapter, saved, torch_tensors
from tests.fixtures.damage import CONFIG, DAMAGES, WEIGHTS, flip

pytestmark = pytest.mark.django_db


@pytest.fixture
def released(running_side: RecordingSide) -> list[tuple[str, str]]:
    """(digest, reason) of all that was released."""
    return running_side.heard


def active(registry: Path, name: str = "one", seed: int = 0) -> LoraAdapter:
    make.adapter(registry / name, seed=seed)
    services.scan(None)
    return services.activate(LoraAdapter.objects.get(name=name).pk, None)


def events(adapter: LoraAdapter, code: str) -> list[AdapterEvent]:
    return list(AdapterEvent.objects.filter(adapter=adapter, code=code))


def whole(adapter: LoraAdapter) -> bool:
    """Active, and its copy a folder of two ordinary files with the content that it had."""
    adapter.refresh_from_db()
    names = sorted(path.name for path in store.entry(adapter.digest).iterdir())
    return adapter.status == Status.ACTIVE and store.verify(adapter.digest) and names == [CONFIG, WEIGHTS]


def failed(adapter: LoraAdapter) -> str:
    """The code that it failed with, "" where it has not."""
    adapter.refresh_from_db()
    return adapter.failure_code if adapter.status == Status.FAILED and not adapter.digest else ""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_seen_and_made_again(registry: Path, damage: str, released: list[Any]) -> None:
    adapter = active(registry)
    DAMAGES[damage](store.entry(adapter.digest))
    assert not store.verify(adapter.digest)
    assert checking.look() == {adapter.digest: Outcome.MENDED}, "what the file system says is enough to see it"
    assert whole(adapter) and checking.look() == {}
    (event,) = events(adapter, "store_mended")
    assert (event.from_status, event.to_status) == ("active", "active") and event.message
    assert released == [], "the engine may keep what it holds: its content is the same"


@pytest.mark.parametrize("damage", DAMAGES)
def test_activating_again_makes_the_copy_again(registry: Path, operator: Any, damage: str) -> None:
    adapter = active(registry)
    DAMAGES[damage](store.entry(adapter.digest))
    services.activate(adapter.pk, operator)
    assert whole(adapter)
    assert [event.actor for event in events(adapter, "store_mended")] == [operator]


@pytest.mark.parametrize("damage", DAMAGES)
def test_activating_after_deactivating_reads_what_it_finds(registry: Path, damage: str) -> None:
    adapter = active(registry)
    digest = adapter.digest
    services.deactivate(adapter.pk, None)
    DAMAGES[damage](store.entry(digest))
    assert services.activate(adapter.pk, None).digest == digest
    assert whole(adapter)


@pytest.mark.parametrize("by", ["look", "activation", "check_store"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_without_its_folder_it_fails_and_history_says_so(
    registry: Path, damage: str, by: str, released: list[Any]
) -> None:
    adapter = active(registry)
    digest = adapter.digest
    DAMAGES[damage](store.entry(digest))
    shutil.rmtree(registry / "one")
    if by == "look":
        assert checking.look() == {digest: Outcome.FAILED}
    elif by == "check_store":
        with pytest.raises(CommandError):
            call_command("check_store")
    else:
        with pytest.raises(services.ActivationFailed):
            services.activate(adapter.pk, None)
    code = "store_lost" if damage == "folder deleted" else "store_damaged"
    assert failed(adapter) == code and adapter.failure_message
    assert [(event.from_status, event.to_status) for event in events(adapter, code)] == [("active", "failed")]
    assert released == [(digest, "failed")]
    assert checking.look() == {} and not LoraAdapter.objects.active().exists()
    make.adapter(registry / "one")
    services.scan(None)
    assert services.activate(adapter.pk, None).digest == digest
    assert whole(adapter)


def test_another_content_in_the_folder_is_not_taken_for_it(registry: Path) -> None:
    adapter = active(registry)
    digest = adapter.digest
    flip(store.entry(digest) / WEIGHTS)
    make.adapter(registry / "one", seed=7)
    assert mend(digest) is Outcome.FAILED
    assert failed(adapter) == "store_damaged"
    assert [path.name for path in store.entry(digest).parent.iterdir()] == [digest], "nothing else was stored"
    assert services.activate(adapter.pk, None).digest != digest


def test_a_folder_that_cannot_be_activated_now_mends_its_old_content_no_more(registry: Path) -> None:
    adapter = active(registry)
    flip(store.entry(adapter.digest) / WEIGHTS)
    make.adapter(registry / "one", make.lora_tensors(b_fill=0.0))
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "no_effect"
    assert failed(adapter) == "store_damaged"


def test_adapters_of_the_same_content_share_its_fate(registry: Path, released: list[Any]) -> None:
    one, two = active(registry, "one"), active(registry, "two")
    assert one.digest == two.digest
    shutil.rmtree(registry / "one")
    flip(store.entry(one.digest) / WEIGHTS)
    assert services.activate(one.pk, None).status == Status.ACTIVE, "from the other one's folder"
    assert whole(one) and len(events(one, "store_mended")) == len(events(two, "store_mended")) == 1
    shutil.rmtree(registry / "two")
    flip(store.entry(one.digest) / WEIGHTS)
    assert mend(one.digest) is Outcome.FAILED
    assert failed(one) == failed(two) == "store_damaged"
    assert len(released) == 1


def test_a_pickled_adapter_is_converted_again(registry: Path) -> None:
    bin_adapter(registry / "one", saved(torch_tensors()))
    services.scan(None)
    adapter = services.activate(LoraAdapter.objects.get(name="one").pk, None)
    flip(store.entry(adapter.digest) / WEIGHTS)
    assert mend(adapter.digest) is Outcome.MENDED and whole(adapter)


def test_a_full_disk_gives_the_bad_copys_room(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = active(registry)
    place = store.entry(adapter.digest)
    os.truncate(place / WEIGHTS, 1000)
    write = store._write

    def full(file: Any, data: bytes) -> None:
        if place.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(store, "_write", full)
    assert mend(adapter.digest) is Outcome.MENDED and whole(adapter)


def test_a_store_that_cannot_be_written_fails_the_adapter(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = active(registry)
    flip(store.entry(adapter.digest) / WEIGHTS)

    def refused(file: Any, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(store, "_write", refused)
    assert mend(adapter.digest) is Outcome.FAILED
    assert failed(adapter) == "store_damaged"


def test_whoever_is_at_the_adapter_is_waited_for(registry: Path) -> None:
    adapter = active(registry)
    os.truncate(store.entry(adapter.digest) / WEIGHTS, 1000)
    for name in (adapter_lock(adapter.pk), cleaning.CLEANING):
        with HeldLease(name):
            assert mend(adapter.digest) is Outcome.BUSY
    adapter.refresh_from_db()
    assert adapter.status == Status.ACTIVE
    assert mend(adapter.digest) is Outcome.MENDED


def test_an_own_shortage_says_nothing_about_a_copy(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = active(registry)
    real = os.open

    def exhausted(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == WEIGHTS:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", exhausted)
        with pytest.raises(OSError):
            mend(adapter.digest)
    assert whole(adapter)


def test_nobody_is_failed_for_a_copy_that_was_made_again_meanwhile(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = active(registry)
    flip(store.entry(adapter.digest) / WEIGHTS)
    monkeypatch.setattr(mending, "_make_again", lambda *args: flip(store.entry(adapter.digest) / WEIGHTS))
    assert mend(adapter.digest) is Outcome.MENDED
    assert whole(adapter)


# Looking ----------------------------------------------------------------------------------------------------------


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the copies that are read from now on."""
    seen: list[str] = []
    fault = store.fault

    def counted(digest: str, *args: Any) -> Any:
        seen.append(digest)
        return fault(digest, *args)

    monkeypatch.setattr(store, "fault", counted)
    return seen


def test_a_look_reads_nothing_that_has_not_changed(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = active(registry, "one"), active(registry, "two", seed=3)
    seen = reads(monkeypatch)
    assert checking.look(read=True) == {} and seen == []
    os.utime(store.entry(two.digest) / WEIGHTS)
    assert checking.look() == {two.digest: Outcome.SOUND}
    assert checking.look() == {} and seen == [two.digest]
    assert whole(one) and whole(two)


def test_copies_are_read_again_in_turn(registry: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = [active(registry, name, seed) for seed, name in enumerate(("one", "two", "three"))]
    settings.STORE_HASH_INTERVAL = 1000
    folder = Path(settings.RUN_DIR) / notes.STORED
    for age, adapter in enumerate(adapters, 1):
        os.utime(folder / adapter.digest, (time.time() - 900 * age,) * 2)
    seen = reads(monkeypatch)
    for _ in range(4):
        checking.look(read=True)
    assert seen == [adapters[2].digest, adapters[1].digest], "the longest unread first; the youngest is not due"
    settings.STORE_HASH_INTERVAL = 0
    shutil.rmtree(folder)
    checking.look(read=True)
    assert len(seen) == 2


def test_damage_that_no_look_can_see_is_found_in_its_turn(registry: Path, settings: Any) -> None:
    adapter = active(registry)
    flip(store.entry(adapter.digest) / WEIGHTS)
    notes.write(adapter.digest, store.state(adapter.digest))  # as a failing disk would do it: no time has changed
    assert checking.look(read=True) == {}
    shutil.rmtree(Path(settings.RUN_DIR) / notes.STORED)  # never read, as far as anybody knows
    assert checking.look(read=True) == {adapter.digest: Outcome.MENDED}
    assert whole(adapter)


def test_a_scan_looks_too(registry: Path) -> None:
    adapter = active(registry)
    flip(store.entry(adapter.digest) / WEIGHTS)
    services.scan(None)
    assert whole(adapter) and events(adapter, "store_mended")


def test_notes_that_cannot_be_kept_cost_work_only(registry: Path, settings: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings.RUN_DIR = tmp_path / "file"
    digests = {active(registry).digest, active(registry, "two", 1).digest}
    assert checking.look(read=True) == {}, "an activation has just read them"
    notes._unwritten.clear()
    read = [checking.look(read=True) for _ in range(3)]
    assert {digest for found in read for digest in found} == digests, "all are read in turn, not one again and again"
    assert read[2] == {}


def test_a_note_that_cannot_be_removed_stays(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = active(registry)
    services.deactivate(adapter.pk, None)

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    monkeypatch.setattr(Path, "unlink", forbidden)
    call_command("check_store")
    assert notes.read(adapter.digest) != notes.NOTHING


def test_the_watcher_looks_when_it_starts_and_survives_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    enough = threading.Event()
    calls: list[bool] = []

    def broken(read: bool) -> dict[str, Outcome]:
        calls.append(read)
        if len(calls) == 3:
            enough.set()
        raise OSError("the disk is away")

    monkeypatch.setattr(checking, "look", broken)
    rare, often = periodic_scan.StoreWatcher(3600), periodic_scan.StoreWatcher(0.001)
    rare.start()
    often.start()
    assert enough.wait(10)
    rare.stop()
    often.stop()
    assert all(calls) and rare.scans == often.scans == 0


def test_no_watcher_unless_asked_for(settings: Any) -> None:
    settings.STORE_CHECK_INTERVAL = 0
    assert periodic_scan.start_store() is None


# The command ------------------------------------------------------------------------------------------------------


def test_check_store_reads_everything_and_mends(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = active(registry, "one"), active(registry, "two", seed=3)
    call_command("check_store")
    assert "2" in capsys.readouterr().out
    flip(store.entry(two.digest) / WEIGHTS)
    notes.write(two.digest, store.state(two.digest))  # nothing to be seen without reading
    with pytest.raises(CommandError):
        call_command("check_store", "--dry-run")
    out = capsys.readouterr().out
    assert two.digest in out and "two" in out and one.digest not in out
    assert not store.verify(two.digest) and not events(two, "store_mended"), "a dry run changes nothing"
    call_command("check_store")
    assert two.digest in capsys.readouterr().out
    assert whole(one) and whole(two)


def test_check_store_says_how_far_it_is(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("one", "two")):
        active(registry, name, seed)
    call_command("check_store", "--verbosity", "2")
    assert "2/2" in capsys.readouterr().err
