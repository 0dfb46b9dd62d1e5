"""Reading below a root and writing in the store while somebody puts links in the way."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters import services, store
from adapters.details import files_of
from adapters.failures import Refused
from adapters.files import partials, store_folder
from adapters.formats.files import open_below
from adapters.lifecycle import conversion
from adapters.models import LoraAdapter, Status
from adapters.places import Elsewhere, Place, innermost, names_below, open_root, set_mode
from adapters.tests import layouts as make
from adapters.tests.interference import contents, interfering, swap
from adapters.training.layout import CONFIG, WEIGHTS, Walk, look


def scanned(registry: Path, name: str = "one", **changes: Any) -> LoraAdapter:
    make.adapter(registry / name, **changes)
    services.scan(None)
    return LoraAdapter.objects.get(name=name)


def refusal(adapter: LoraAdapter) -> str:
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    return caught.value.code


@pytest.mark.parametrize(
    "names", [("..",), ("a", ".."), (".",), ("",), ("a/b",), ("link",), ("link", "b"), ("a", "up")]
)
def test_no_way_leads_out_of_a_place(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "root" / "link").symlink_to("a")
    (tmp_path / "root" / "a" / "up").symlink_to("../..")
    with open_root(str(tmp_path / "root")) as root, root.below("a") as folder:
        with pytest.raises(Elsewhere):
            root.below(*names)
        assert folder.names == ("a",)


def test_a_root_that_became_a_link_since_it_was_resolved(tmp_path: Path) -> None:
    (tmp_path / "real" / "root").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(Elsewhere):
        open_root(str(tmp_path / "link" / "root"))


def test_descriptors_are_closed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to("b")
    before = len(os.listdir("/proc/self/fd"))
    with open_root(str(tmp_path)) as root, root.below("a", "b") as place:
        place.check()
        for _ in range(3):
            with pytest.raises(OSError, match="link|none"):
                root.below("a", "link")
            with pytest.raises(FileNotFoundError):
                root.below("a", "none")
        with place.renamed("c") as renamed:
            assert renamed.names == ("a", "c")
        with pytest.raises(Elsewhere):
            place.check()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_made_or_changed_in_a_place_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "file").touch()
    with open_root(str(tmp_path / "root")) as root, root.below("a") as place:
        (tmp_path / "root" / "a").rename(tmp_path / "away")
        (tmp_path / "root" / "a").symlink_to(tmp_path / "away")
        before = contents(tmp_path / "away")
        calls: list[Callable[[], object]] = [
            lambda: place.make("new"),
            lambda: place.create("new"),
            lambda: place.unlink("file"),
            lambda: place.rmdir("folder"),
            lambda: place.rename("file", place, "other"),
            lambda: place.renamed("b"),
        ]
        for call in calls:
            with pytest.raises(Elsewhere):
                call()
    assert contents(tmp_path / "away") == before


def test_links_are_neither_written_through_nor_changed(tmp_path: Path) -> None:
    gold = tmp_path / "gold"
    gold.write_text("gold")
    gold.chmod(0o600)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(gold)
    (tmp_path / "root" / "dangling").symlink_to(tmp_path / "new")
    with open_root(str(tmp_path / "root")) as root:
        for name in ("link", "dangling"):
            with pytest.raises(FileExistsError):
                root.create(name)
            with pytest.raises(FileExistsError):
                root.make(name)
            with pytest.raises(OSError) as caught:
                set_mode(root, name, 0o777)
            assert caught.value.errno == errno.ELOOP
    assert gold.read_text() == "gold" and stat.S_IMODE(gold.stat().st_mode) == 0o600
    assert not (tmp_path / "new").exists()


def test_the_innermost_root_counts() -> None:
    roots = ("/a", "/a/b", "/ab")
    assert innermost("/a/b/c", roots) == "/a/b"
    assert innermost("/a/b", roots) == "/a/b"
    assert innermost("/a/bc", roots) == "/a"
    assert innermost("/abc", roots) is None
    assert names_below("/a/b/c", "/a") == ("b", "c")


def test_a_scan_sees_nothing_outside(registry: Path, tmp_path: Path) -> None:
    """A folder is swapped for a link before the first call of the scan, the second, ..."""
    outside = tmp_path / "outside"
    number = 0
    while True:
        for folder in (registry, outside):
            shutil.rmtree(folder, ignore_errors=True)
            make.hf_run(folder / "a", "run")
        foreign = {path.stat().st_ino for path in outside.rglob("*")}

        def act() -> None:
            swap(registry / "a", outside / "a")

        with interfering(act, lambda count, *_: count == number) as meant:  # noqa: B023
            found = list(Walk((str(registry),)).candidates(str(registry)))
        assert not foreign & {stats[0] for candidate in found for stats in candidate.stats.values()}
        if not meant.done:
            assert len(found) == 4
            return
        number += 1


def test_a_look_at_one_folder_follows_no_link(registry: Path, tmp_path: Path) -> None:
    make.adapter(registry / "a" / "one")
    make.adapter(tmp_path / "outside" / "one")
    roots = (str(registry),)
    assert look(str(registry), str(registry / "a" / "one"), roots) is not None
    swap(registry / "a", tmp_path / "outside")
    assert look(str(registry), str(registry / "a" / "one"), roots) is None


def test_a_link_on_the_way_to_a_file(registry: Path, tmp_path: Path) -> None:
    make.adapter(registry / "a" / "one")
    make.adapter(tmp_path / "outside" / "one")

    def act() -> None:
        swap(registry / "a", tmp_path / "outside")

    with (
        interfering(act, lambda _, name, arguments: (name, arguments[0]) == ("open", "a")),
        pytest.raises(Refused) as e,
    ):
        with open_below((str(registry),), str(registry / "a" / "one"), "adapter_config.json"):
            pass
    assert e.value.code == "outside_root"


def test_a_folder_in_a_files_place(registry: Path) -> None:
    (registry / "one" / CONFIG).mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Refused) as caught, open_below((str(registry),), str(registry / "one"), CONFIG):
        pass
    assert caught.value.code == "not_a_file"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.django_db
def test_the_list_of_files_names_nothing_outside(registry: Path, tmp_path: Path) -> None:
    adapter = scanned(registry)
    assert [file.name for file in files_of(adapter)] == [CONFIG, WEIGHTS, "README.md"]
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").touch()
    swap(registry / "one", tmp_path / "outside")
    assert files_of(adapter) == []


@pytest.mark.django_db
@pytest.mark.parametrize("whole", [False, True], ids=["empty", "a copy"])
def test_a_link_in_the_place_of_an_entry_is_replaced(
    registry: Path, tmp_path: Path, settings: Any, whole: bool
) -> None:
    adapter = services.activate(scanned(registry).pk, None)
    entry, outside = adapter.store_path, tmp_path / "outside"
    services.deactivate(adapter.pk, None)
    if whole:
        entry.rename(outside)
    else:
        shutil.rmtree(entry)
        outside.mkdir()
    entry.symlink_to(outside)
    before = contents(outside)
    assert not store.has(entry.name)
    assert services.activate(adapter.pk, None).store_path == entry
    assert not entry.is_symlink() and store.verify(entry.name)
    assert contents(outside) == before
    assert [path.name for path in settings.STORE_DIR.iterdir()] == [entry.name]


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_link_in_the_place_of_a_stored_file_is_replaced(registry: Path, tmp_path: Path, name: str) -> None:
    adapter = services.activate(scanned(registry).pk, None)
    (adapter.store_path / name).rename(tmp_path / "outside")
    (adapter.store_path / name).symlink_to(tmp_path / "outside")
    before = (tmp_path / "outside").read_bytes()
    assert not store.has(adapter.digest)
    adapter = services.activate(adapter.pk, None)
    assert not (adapter.store_path / name).is_symlink() and store.verify(adapter.digest)
    assert (tmp_path / "outside").read_bytes() == before


@pytest.mark.django_db
def test_a_store_behind_a_link(registry: Path, tmp_path: Path, settings: Any) -> None:
    (tmp_path / "large disk").mkdir()
    settings.STORE_DIR.symlink_to(tmp_path / "large disk")
    adapter = services.activate(scanned(registry).pk, None)
    assert store.verify(adapter.digest)
    assert stat.S_IMODE(adapter.store_path.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in adapter.store_path.iterdir()} == {0o444}


@pytest.mark.django_db
def test_the_store_is_written_only_in_folders_of_its_own(registry: Path, tmp_path: Path, settings: Any) -> None:
    """The folder that is being filled is swapped for a link before the first call, the second, ..."""
    adapter = scanned(registry)
    outside = tmp_path / "outside"
    (outside / "1").mkdir(parents=True)
    (outside / "adapter_config.json").write_text("{}")
    (outside / "adapter_config.json").chmod(0o600)
    before = contents(outside)
    number = 0

    def act() -> None:
        for path in settings.STORE_DIR.iterdir():
            swap(path, outside)

    while True:
        shutil.rmtree(settings.STORE_DIR, ignore_errors=True)
        settings.STORE_DIR.mkdir()
        with interfering(act, lambda count, *_: count == number) as meant:  # noqa: B023
            try:
                services.activate(adapter.pk, None)
            except services.ActivationFailed as failed:
                assert failed.code in {"store_unwritable", "outside_root", "files_missing"}
        assert contents(outside) == before, number
        services.deactivate(adapter.pk, None)
        if not meant.done:
            return
        number += 1


@pytest.mark.django_db
def test_another_folder_is_not_published(registry: Path, settings: Any) -> None:
    adapter = scanned(registry)

    def exchange() -> None:
        partial = next(settings.STORE_DIR.glob(f"{store.PARTIAL}*"))
        partial.rename(settings.STORE_DIR / "moved")
        partial.mkdir()
        (partial / "adapter_config.json").write_text("{}")

    with interfering(exchange, lambda _, name, *__: name == "rename") as meant:
        assert refusal(adapter) == "store_unwritable"
    assert meant.done
    assert not any(store.DIGEST.match(path.name) for path in settings.STORE_DIR.iterdir())


@pytest.mark.django_db
def test_cleaning_removes_links_and_not_what_they_lead_to(registry: Path, tmp_path: Path, settings: Any) -> None:
    outside = make.adapter(tmp_path / "outside")
    before = contents(outside)
    settings.STORE_DIR.mkdir()
    names = ["0" * 64, ".partial-x"]
    for name in names:
        (settings.STORE_DIR / name).symlink_to(outside)
        os.utime(settings.STORE_DIR / name, (0, 0), follow_symlinks=False)
    names.append("2" * 64)
    (settings.STORE_DIR / names[-1]).symlink_to(tmp_path / "nothing")
    (settings.STORE_DIR / ("1" * 64)).mkdir()
    (settings.STORE_DIR / ("1" * 64) / "link").symlink_to(outside)
    (settings.STORE_DIR / "stranger").symlink_to(outside)
    assert {(item.name, item.size_bytes) for item in services.clean()} == {(n, 0) for n in [*names, "1" * 64]}
    assert contents(outside) == before
    assert [path.name for path in settings.STORE_DIR.iterdir()] == ["stranger"]


@pytest.mark.django_db
def test_cleaning_while_an_entry_is_swapped_for_a_link(registry: Path, tmp_path: Path, settings: Any) -> None:
    outside = make.adapter(tmp_path / "outside")
    before = contents(outside)
    number, name = 0, "0" * 64

    def act() -> None:
        for path in settings.STORE_DIR.iterdir():
            swap(path, outside)

    while True:
        shutil.rmtree(settings.STORE_DIR, ignore_errors=True)
        make.adapter(settings.STORE_DIR / name)
        with interfering(act, lambda count, *_: count == number) as meant:  # noqa: B023
            try:
                store_folder.remove(name)
            except OSError as error:
                assert isinstance(error, Elsewhere)
        assert contents(outside) == before, number
        if not meant.done:
            assert list(settings.STORE_DIR.iterdir()) == []
            return
        number += 1


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_a_conversion_leaves_must_be_a_file(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The child reads foreign bytes: were it taken over, it could put a link in its result's place."""
    make.adapter(registry / "one")
    (registry / "one" / "adapter_model.safetensors").rename(tmp_path / "secret")
    (registry / "one" / "adapter_model.bin").write_bytes(b"pickle")

    def taken_over(_source: Any, scratch: Place, _size: int) -> None:
        {
            "link": lambda: os.symlink(tmp_path / "secret", conversion.RESULT, dir_fd=scratch.descriptor),
            "pipe": lambda: os.mkfifo(conversion.RESULT, dir_fd=scratch.descriptor),
            "folder": lambda: os.mkdir(conversion.RESULT, dir_fd=scratch.descriptor),
        }[kind]()

    monkeypatch.setattr(conversion, "_run", taken_over)
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    assert refusal(adapter) == "pickle_refused"
    adapter.refresh_from_db()
    assert adapter.status == Status.FAILED


@pytest.mark.django_db
def test_no_copy_outside_is_taken_for_the_stored_one(registry: Path, tmp_path: Path) -> None:
    """A bad copy is swapped for a link to a sound one before the first call, the second, ..."""
    entry = services.activate(scanned(registry).pk, None).store_path
    shutil.copytree(entry, tmp_path / "outside")
    (entry / CONFIG).chmod(0o600)
    (entry / CONFIG).write_text("{}")
    number = 0
    while True:
        with interfering(lambda: swap(entry, tmp_path / "outside"), lambda count, *_: count == number) as meant:  # noqa: B023
            assert not store.verify(entry.name)
        if not meant.done:
            return
        entry.unlink()
        entry.with_name("moved").rename(entry)
        number += 1


def test_sweeping_while_an_unfinished_folder_is_swapped_for_a_link(tmp_path: Path) -> None:
    outside = make.adapter(tmp_path / "outside")
    before = contents(outside)
    number, name = 0, f"{partials.PREFIX}{partials.machine()}-1"
    while True:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        make.adapter(tmp_path / "store" / name)
        with interfering(
            lambda: swap(tmp_path / "store" / name, outside),
            lambda count, *_: count == number,  # noqa: B023
        ) as meant:
            with open_root(str(tmp_path)) as top, top.below("store") as shelf:
                partials.sweep(shelf)
        assert contents(outside) == before, number
        if not meant.done:
            assert list((tmp_path / "store").iterdir()) == []
            return
        number += 1
