"""Deleting an adapter's files while somebody changes the folders: what lies outside the root stays, whenever it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command

from adapters import hooks, places, services
from adapters.files import leftovers, removal
from adapters.identifiers import text_hash
from adapters.leases import HeldLease, adapter_lock
from adapters.models import AdapterEvent, EventKind, LoraAdapter
from adapters.places import open_root
from adapters.tests import layouts as make
from adapters.tests.interference import contents, interfering
from adapters.training.layout import DELETED

pytestmark = pytest.mark.django_db
REFUSALS = {"outside_root", "files_missing"}


@dataclass
class Scene:
    """`root/a/b/run` is to be deleted; `outside` is a twin of `root/a`, down to the names."""

    root: Path
    outside: Path
    pk: int = 0

    @property
    def run(self) -> Path:
        return self.root / "a" / "b" / "run"

    @property
    def hidden(self) -> Path | None:
        """Where the folder was moved aside to."""
        return next((path for path in self.root.rglob(".deleted-*") if path.is_dir()), None)

    def delete(self) -> str:
        """The refusal's code, "" for a success."""
        try:
            services.delete_files(self.pk, None, "run")
        except services.Refused as refused:
            return refused.code
        return ""

    def exists(self) -> bool:
        return LoraAdapter.objects.filter(pk=self.pk).exists()


def row(path: Path, root: Path, name: str = "run") -> int:
    return LoraAdapter.objects.create(
        name=name,
        slug=f"s{LoraAdapter.objects.count()}",
        root=str(root),
        path=str(path),
        path_hash=text_hash(str(path)),
    ).pk


def fill(run: Path, kept: bool) -> None:
    run.mkdir(parents=True)
    (run / "data" / "deeper").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "data/one", "data/deeper/two"):
        (run / name).write_text(name)
    (run / "empty").mkdir()
    (run / "link").symlink_to("/")
    if kept:
        (run / "checkpoint-10").mkdir()
        (run / "checkpoint-10" / "adapter_config.json").write_text("10")


@pytest.fixture(params=[False, True], ids=["whole", "kept"])
def kept(request: pytest.FixtureRequest) -> bool:
    """Whether another adapter lies in the folder that is to be deleted."""
    return bool(request.param)


@pytest.fixture
def scene(registry: Path, tmp_path: Path) -> Scene:
    made = Scene(registry, tmp_path / "outside")
    fill(made.run, False)
    shutil.copytree(registry / "a", made.outside, symlinks=True)
    made.pk = row(made.run, registry)
    return made


def scenes(scene: Scene, kept: bool) -> Iterator[tuple[int, Scene]]:
    """(number, fresh scene) without end; the outside is the same in all of them."""
    shutil.rmtree(scene.outside)
    fill(scene.outside / "b" / "run", kept)
    number = 0
    while True:
        shutil.rmtree(scene.root)
        fill(scene.run, kept)
        LoraAdapter.objects.all().delete()
        scene.pk = row(scene.run, scene.root)
        yield number, scene
        number += 1


def swap(path: Path, target: Path) -> None:
    """The folder moves aside, and a link to another one takes its place."""
    path.rename(path.with_name("moved"))
    path.symlink_to(target)


def swap_above(scene: Scene) -> None:
    swap(scene.root / "a", scene.outside)


def swap_parent(scene: Scene) -> None:
    swap(scene.root / "a" / "b", scene.outside / "b")


def swap_itself(scene: Scene) -> None:
    with suppress(FileNotFoundError):  # it may have been moved aside already
        swap(scene.run, scene.outside / "b" / "run")


def swap_hidden(scene: Scene) -> None:
    if scene.hidden is not None:
        swap(scene.hidden, scene.outside / "b" / "run")


def swap_inside(scene: Scene) -> None:
    for name in ("data", "deeper", "empty"):
        found = next((path for path in scene.root.rglob(name) if path.is_dir() and not path.is_symlink()), None)
        if found is not None:
            found.rename(scene.root / f"moved-{name}")
            found.symlink_to(scene.outside / "b" / "run" / "data")


SWAPS = [swap_above, swap_parent, swap_itself, swap_hidden, swap_inside]


@pytest.mark.parametrize("act", SWAPS, ids=lambda act: act.__name__)
def test_a_link_swapped_in_before_any_call_leads_nowhere(
    scene: Scene, kept: bool, act: Callable[[Scene], None]
) -> None:
    """The same deletion again and again, disturbed before its first call to the kernel, its second, ... its last."""
    codes: set[str] = set()
    before: dict[str, Any] = {}
    for number, fresh in scenes(scene, kept):
        before = before or contents(fresh.outside)
        original = fresh.run.stat().st_ino
        with interfering(lambda: act(fresh), lambda count, *_: count == number) as meant:  # noqa: B023
            code = fresh.delete()
        assert contents(fresh.outside) == before, number
        assert code in REFUSALS | {""}
        assert fresh.exists() is bool(code)
        if not code and not kept:
            assert original not in {path.lstat().st_ino for path in fresh.root.rglob("*")}
        if not meant.done:
            break
        codes.add(code)
    assert number > 40
    assert codes & REFUSALS


def test_a_folder_that_is_moved_out_keeps_its_files(scene: Scene, kept: bool) -> None:
    """At most the one entry goes whose removal had been decided when the folder was moved."""
    left: list[int] = []
    for number, fresh in scenes(scene, kept):
        elsewhere = fresh.outside.parent / f"elsewhere{number}"

        def move(fresh: Scene = fresh, elsewhere: Path = elsewhere) -> None:
            (fresh.root / "a").rename(elsewhere)
            left.append(len(contents(elsewhere)))

        with interfering(move, lambda count, *_: count == number) as meant:  # noqa: B023
            code = fresh.delete()
        if not meant.done:
            assert code == ""
            break
        assert len(contents(elsewhere)) >= left[-1] - 1, number
        assert code in REFUSALS or len(contents(elsewhere)) == (4 if kept else 1)  # nothing was left to do
    assert number > 40


def test_a_folder_above_is_swapped_while_the_adapter_is_drained(scene: Scene) -> None:
    LoraAdapter.objects.filter(pk=scene.pk).update(digest="0" * 64)
    before, original = contents(scene.outside), contents(scene.root / "a")

    class Side(SimpleNamespace):
        def drain(self, digest: str, timeout: float) -> bool:
            swap_above(scene)
            return True

    before_side = hooks.register(Side(released=lambda digest, reason: None, base_support=lambda folder: None))
    try:
        assert scene.delete() == "outside_root"
    finally:
        hooks.register(before_side)
    assert contents(scene.outside) == before
    assert contents(scene.root / "moved") == original


def test_another_folder_that_takes_the_place_at_the_last_moment_gets_its_name_back(scene: Scene) -> None:
    other = make.adapter(scene.root / "a" / "b" / "other")
    before = contents(other)

    def exchange() -> None:
        scene.run.rename(scene.root / "away")
        other.rename(scene.run)

    with interfering(exchange, lambda _, name, *__: name == "rename"):
        assert scene.delete() == "outside_root"
    assert contents(scene.run) == before
    assert (scene.root / "away" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    "path", ["{root}/a/b/../../../outside/b/run", "{root}", "{root}/", "{root}/a/b/link", "{outside}/b/run", "/", ""]
)
def test_a_path_that_leads_elsewhere(scene: Scene, path: str) -> None:
    (scene.root / "a" / "b" / "link").symlink_to(scene.outside / "b" / "run")
    before, inside = contents(scene.outside), contents(scene.root)
    LoraAdapter.objects.filter(pk=scene.pk).update(path=path.format(root=scene.root, outside=scene.outside))
    assert scene.delete() in REFUSALS
    assert (contents(scene.outside), contents(scene.root)) == (before, inside)


def test_a_root_behind_a_link(scene: Scene, settings: Any, tmp_path: Path) -> None:
    (tmp_path / "roots").symlink_to(scene.root.parent)
    settings.LORA_ROOTS = [tmp_path / "roots" / scene.root.name]
    assert scene.delete() == ""
    assert not scene.run.exists()


def test_links_and_hard_links_go_and_what_they_lead_to_stays(scene: Scene) -> None:
    gold = scene.outside / "gold"
    gold.write_text("gold")
    os.link(gold, scene.run / "hard")
    (scene.run / "soft").symlink_to(gold)
    (scene.run / "data" / "soft").symlink_to(scene.outside)
    before = contents(scene.outside)
    assert scene.delete() == ""
    assert contents(scene.outside) == before
    assert gold.stat().st_nlink == 1


@pytest.mark.parametrize("configured", ["LORA_ROOTS", "STORE_DIR", "BASE_MODELS_DIR"])
def test_a_configured_folder_inside_stays(scene: Scene, settings: Any, configured: str) -> None:
    inner = scene.run / "data" / "deeper"
    setattr(settings, configured, [scene.root, inner] if configured == "LORA_ROOTS" else inner)
    assert scene.delete() == ""
    assert [path.name for path in scene.run.iterdir()] == ["data"]
    assert (inner / "two").read_text() == "data/deeper/two"


@contextmanager
def mounted(*folders: Path) -> Iterator[None]:
    """These folders as if another file system were mounted there: mounting takes rights that tests do not have."""
    numbers = {folder.stat().st_ino for folder in folders}
    real = places.mount_of

    def mount_of(descriptor: int) -> tuple[int, str]:
        return (-1, "other") if os.fstat(descriptor).st_ino in numbers else real(descriptor)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(places, "mount_of", mount_of)
        yield


@pytest.mark.parametrize("name", [".", "data", "data/deeper"])
def test_another_file_system_is_not_entered(scene: Scene, name: str) -> None:
    before = contents(scene.root)
    with mounted(scene.run / name):
        assert scene.delete() == "undeletable"
    assert contents(scene.root) == before
    assert scene.exists()


@pytest.mark.parametrize("name", ["data", "data/deeper"])
def test_another_file_system_that_is_mounted_meanwhile(
    scene: Scene, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "rehearse", lambda *args: None)
    with mounted(scene.run / name):
        assert scene.delete() == "undeletable"
    left = [path.name for path in scene.root.rglob("*") if path.is_file()]
    assert "two" in left if name == "data/deeper" else {"one", "two"} <= set(left)


def test_a_kept_folder_may_be_on_another_file_system(scene: Scene) -> None:
    other = make.adapter(scene.run / "checkpoint-10")
    with mounted(other):
        assert scene.delete() == ""
    assert (other / "adapter_config.json").exists()


def test_a_root_that_is_mounted(scene: Scene) -> None:
    with mounted(*[path for path in (scene.root, *scene.root.rglob("*")) if path.is_dir() and not path.is_symlink()]):
        assert scene.delete() == ""


def test_what_cannot_be_written_is_refused_whole(scene: Scene, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if kept:
        make.adapter(scene.run / "checkpoint-10")
    before = contents(scene.root)
    data = (scene.run / "data" / "deeper").stat().st_ino
    real = os.access

    def access(path: Any, mode: int, *, dir_fd: int | None = None, **options: Any) -> bool:
        if dir_fd is not None and os.fstat(dir_fd).st_ino == data:
            return False
        return real(path, mode, dir_fd=dir_fd, **options)

    monkeypatch.setattr(os, "access", access)
    assert scene.delete() == "undeletable"
    assert contents(scene.root) == before


def test_what_cannot_be_moved_aside_is_put_back(scene: Scene) -> None:
    make.adapter(scene.run / "checkpoint-10")
    before = contents(scene.run)

    def refuse() -> None:
        raise PermissionError(13, "Permission denied")

    with interfering(refuse, lambda _, name, arguments: name == "rename" and arguments[0] == "link"):
        assert scene.delete() == "undeletable"
    assert contents(scene.run) == before


class Killed(BaseException):
    """The process ends."""


def kill() -> None:
    raise Killed


def interrupt(scene: Scene, call: str, name: str) -> None:
    with interfering(kill, lambda _, made, arguments: made == call and arguments[0] == name) as meant:
        with pytest.raises(Killed):
            scene.delete()
    assert meant.done
    assert scene.exists()


@pytest.mark.parametrize("call", [("unlink", "adapter_config.json"), ("unlink", "one"), ("rmdir", "empty")])
def test_calling_again_finishes_what_was_interrupted(scene: Scene, kept: bool, call: tuple[str, str]) -> None:
    if kept:
        make.adapter(scene.run / "checkpoint-10")
    interrupt(scene, *call)
    services.scan(None)
    assert LoraAdapter.objects.get(pk=scene.pk).missing
    assert scene.delete() == ""
    assert not scene.exists()
    assert AdapterEvent.objects.filter(kind=EventKind.FILES_DELETED, adapter_name="run").count() == 1
    left = sorted(str(path.relative_to(scene.run.parent)) for path in scene.run.parent.rglob("*") if path.is_dir())
    assert left == (["run", "run/checkpoint-10"] if kept else [])
    assert not kept or sorted(path.name for path in scene.run.iterdir()) == ["checkpoint-10"]


def test_calling_again_after_an_error_half_way(scene: Scene) -> None:
    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted")

    with interfering(refuse, lambda _, name, arguments: name == "unlink" and arguments[0] == "one"):
        assert scene.delete() == "undeletable"
    assert scene.exists() and scene.hidden is not None
    assert scene.delete() == ""
    assert scene.hidden is None and not scene.exists()


def test_a_new_folder_of_the_same_name_is_left_alone(scene: Scene) -> None:
    interrupt(scene, "unlink", "one")
    scene.run.mkdir()
    (scene.run / "log.txt").write_text("a new training")
    assert scene.delete() == ""
    assert [path.name for path in scene.run.parent.iterdir()] == ["run"]
    assert (scene.run / "log.txt").exists()


def test_the_next_deletion_cleans_up(scene: Scene) -> None:
    interrupt(scene, "unlink", "one")
    (scene.root / "a" / "b" / ".deleted-0123456789ab").mkdir()  # of an earlier version
    mine = scene.root / "a" / "b" / ".deleted-notes"
    mine.mkdir()
    other = make.adapter(scene.root / "a" / "b" / "other")
    scene.pk = row(other, scene.root)
    assert scene.delete() == ""
    assert [path.name for path in other.parent.iterdir()] == [mine.name]


def test_a_leftover_on_another_file_system_stays(scene: Scene) -> None:
    left = make.adapter(scene.run.parent / ".deleted-0123456789ab")
    before = contents(left)
    with mounted(left):
        assert services.clean_roots() == []
        assert scene.delete() == ""
    assert contents(left) == before


def test_a_deletion_that_still_runs_elsewhere_is_left_alone(scene: Scene) -> None:
    interrupt(scene, "unlink", "one")
    left, owner = scene.hidden, scene.pk
    assert left is not None
    before = contents(left)
    scene.pk = row(make.adapter(scene.root / "a" / "b" / "other"), scene.root)
    with HeldLease(adapter_lock(owner)):
        assert scene.delete() == ""
        assert services.clean_roots() == []
    assert contents(left) == before
    assert [item.label for item in services.clean_roots()] == [f"adapters/a/b/{left.name}"]
    assert not left.exists()


def test_a_checkpoint_that_is_being_deleted_is_left_alone(scene: Scene) -> None:
    """It has been moved aside within the folder of its run, which is deleted at the same time."""
    checkpoint = make.adapter(scene.run / leftovers.new_name(4711))
    before = contents(checkpoint)
    with HeldLease(adapter_lock(4711)):
        assert scene.delete() == ""
    assert [path.name for path in scene.run.iterdir()] == [checkpoint.name]
    assert contents(checkpoint) == before


def test_clean_store_removes_what_interrupted_deletions_left(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    make.adapter(scene.run / "checkpoint-10")
    interrupt(scene, "unlink", "two")
    left = scene.hidden
    assert left is not None
    (left / "link to the outside").symlink_to(scene.outside)
    before = contents(scene.outside)
    call_command("clean_store", "--dry-run")
    assert f"adapters/a/b/run/{left.name}" in capsys.readouterr().out and left.exists()
    call_command("clean_store")
    assert f"adapters/a/b/run/{left.name}" in capsys.readouterr().out and not left.exists()
    assert contents(scene.outside) == before
    call_command("clean_store")
    assert "deletion" not in capsys.readouterr().out


def test_what_vanishes_meanwhile_is_no_error(scene: Scene, kept: bool) -> None:
    """Somebody else removes the same files at the same time."""
    for number, fresh in scenes(scene, kept):
        aside: list[bool] = []

        def vanish(fresh: Scene = fresh, aside: list[bool] = aside) -> None:
            aside.append(fresh.hidden is not None)
            for folder in [fresh.run, *fresh.root.rglob(".deleted-*")]:
                for path in folder.glob("*"):
                    if path.name.startswith(("adapter_", "link")):
                        path.unlink()
                    elif not path.name.startswith((".", "checkpoint")):
                        shutil.rmtree(path)

        with interfering(vanish, lambda count, *_: count == number) as meant:  # noqa: B023
            code = fresh.delete()
        assert code in ({""} if aside == [True] else {"", "files_missing"})
        if not meant.done:
            break
    assert number > 40


def test_folders_nested_deeper_than_python_recurses(scene: Scene) -> None:
    folder = os.open(scene.run, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("deep", dir_fd=folder)
        deeper = os.open("deep", os.O_RDONLY, dir_fd=folder)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=deeper))
        os.close(folder)
        folder = deeper
    os.close(folder)
    assert scene.delete() == ""
    assert list((scene.root / "a" / "b").iterdir()) == []


def test_somebody_who_writes_without_end_is_given_up(scene: Scene) -> None:
    """A file that comes again whenever it is removed, as an open one does on a network file system."""
    with open_root(str(scene.root)) as root, root.below("a", "b", "run") as place:
        real = os.unlink

        def unlink(name: str, *, dir_fd: int) -> None:
            real(name, dir_fd=dir_fd)
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=dir_fd))

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(os, "unlink", unlink)
            patched.setattr(removal, "LATE", 20)
            with pytest.raises(OSError, match="not empty"):
                removal.remove(place)


def test_every_name_that_is_made_is_known_again() -> None:
    name = leftovers.new_name(12)
    assert DELETED.match(name) and leftovers.owner_of(name) == 12
    assert leftovers.owner_of(".deleted-0123456789ab") is None
    for stranger in (".deleted", ".deleted-x", ".deleted-1-0123456789abc", "deleted-0123456789ab", f"{name}x"):
        assert not DELETED.match(stranger)
