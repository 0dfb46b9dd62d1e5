"""What goes wrong with one folder concerns no other, and ends no scan."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError

from adapters import services, store
from adapters.bases import registry as bases
from adapters.discovery import intake
from adapters.failures import Refused, render
from adapters.lifecycle import activation, checking
from adapters.lifecycle.mending import Outcome
from adapters.models import AdapterEvent, BaseModel, LoraAdapter, Scan, Status
from adapters.tests import layouts as make
from adapters.training import facts, grouping, readers
from adapters.training.layout import Walk, moment_of
from adapters.validation import validate

pytestmark = pytest.mark.django_db


def breaking(function: Callable[..., Any], error: type[Exception] = RuntimeError) -> Callable[..., Any]:
    """`function`, which fails wherever an argument tells of the folder "bad"."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if any("/bad" in str(getattr(arg, "path", arg)) for arg in args):
            raise error("nobody thought of this")
        return function(*args, **kwargs)

    return call


def states() -> dict[str, str]:
    return {adapter.name: adapter.failure_code or adapter.status for adapter in LoraAdapter.objects.all()}


JUDGING = [(intake, "validate"), (validate, "_validate"), (intake, "fill"), (intake, "settle_status")]


@pytest.mark.parametrize(("module", "name"), JUDGING, ids=lambda value: getattr(value, "__name__", value))
def test_a_folder_that_cannot_be_judged_or_written(
    registry: Path, module: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("a", "bad", "c"):
        make.adapter(registry / folder)
    if name == "settle_status":  # rows that are there
        services.scan(None)
        for folder in ("a", "bad", "c"):
            make.adapter(registry / folder, seed=3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, name, breaking(getattr(module, name)))
        summary = services.scan(None)
    assert summary.found == 3 and "nobody thought of this" in caplog.text
    known = {"a": "discovered", "c": "discovered"}
    if name in ("validate", "_validate"):
        assert states() == known | {"bad": "check_failed"}
        assert "the server" in render("check_failed", {}).lower()
    else:  # not even the failure can be written
        assert {**states(), **known} == states()
        notes = Scan.objects.first().notes  # type: ignore[union-attr]
        assert notes == [{"code": "check_failed", "path": "adapters/bad"}]
    services.scan(None)
    assert states() == known | {"bad": "discovered"}
    assert services.scan(None).changed == 0


def test_what_is_served_stays_served(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.adapter(registry / "bad")
    services.scan(None)
    before = services.activate(LoraAdapter.objects.get().pk, None)
    make.adapter(registry / "bad", seed=3)
    monkeypatch.setattr(intake, "validate", breaking(intake.validate))
    services.scan(None)
    after = LoraAdapter.objects.get()
    assert (after.status, after.digest, after.flags) == (Status.ACTIVE, before.digest, ["source_broken"])


@pytest.mark.parametrize(
    ("module", "name"), [(facts, "read_facts"), (grouping, "best_step"), (readers, "fields_of")], ids=str
)
def test_what_is_said_beside_an_adapter(
    registry: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    make.hf_run(registry, "run")

    def broken(*args: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(module, name, broken)
    assert services.scan(None).new == 4
    assert set(states().values()) == {"discovered"}


def test_a_folder_that_cannot_be_listed(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.adapter(registry / "bad" / "one")
    make.adapter(registry / "good")
    is_folder = Walk._is_folder
    monkeypatch.setattr(Walk, "_is_folder", lambda walk, *args: breaking(is_folder.__get__(walk))(*args))
    assert services.scan(None).found == 1
    assert Scan.objects.first().notes == [{"code": "check_failed", "path": "adapters/bad"}]  # type: ignore[union-attr]


def test_a_base_model_that_cannot_be_judged(registry: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make.base_model(tmp_path / "models" / "bad", num_hidden_layers=3)
    make.adapter(registry / "one")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bases, "read_shapes", breaking(bases.read_shapes))
        services.scan(None)
    codes = dict(BaseModel.objects.values_list("name", "problem_code"))
    assert codes == {"bad": "check_failed", make.BASE_NAME: ""} and states() == {"one": "discovered"}
    services.scan(None)
    assert not BaseModel.objects.exclude(problem_code="").exists()


def test_a_copy_that_cannot_be_looked_at(registry: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    for number, name in enumerate(("one", "two")):
        make.adapter(registry / name, seed=number)
    services.scan(None)
    digests = sorted(services.activate(row.pk, None).digest for row in LoraAdapter.objects.all())
    for digest in digests:
        checking.notes.write(digest, "as it was once")
    mend = checking.mend

    def broken(digest: str, *args: Any) -> Outcome:
        if digest == digests[0]:
            raise OSError("no descriptor is left")
        return mend(digest, *args)

    monkeypatch.setattr(checking, "mend", broken)
    services.scan(None)
    assert checking.look() == {} and checking.notes.read(digests[1]).state != "as it was once"
    for when, digest in enumerate(digests):
        checking.notes.write(digest, store.state(digest))
        os.utime(settings.RUN_DIR / "checked" / digest, (when, when))
    assert checking.look(read=True) == {digests[1]: Outcome.SOUND}, "though it was read later than the other one"


def test_a_database_that_is_away_ends_a_scan(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.adapter(registry / "bad")
    monkeypatch.setattr(intake, "validate", breaking(intake.validate, OperationalError))
    with pytest.raises(OperationalError):
        services.scan(None)
    assert not LoraAdapter.objects.exists()


def test_a_date_that_no_calendar_has() -> None:
    assert moment_of(2**63 - 1) is not None
    assert moment_of(10**21) is None


def kinds(adapter: LoraAdapter) -> list[str]:
    return list(AdapterEvent.objects.filter(adapter=adapter).order_by("pk").values_list("kind", flat=True))


def one(registry: Path) -> LoraAdapter:
    """A healthy adapter that was found."""
    make.adapter(registry / "one")
    services.scan(None)
    return LoraAdapter.objects.get()


@pytest.mark.parametrize("code", ["tensors_mismatch", "base_mismatch", "vocabulary_resized"])
def test_a_refusal_that_only_activation_finds(registry: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives no line of history at later scans, and is looked at again when the base was replaced."""
    adapter = one(registry)

    def refusing(*args: Any, **kwargs: Any) -> None:
        raise Refused(code)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(activation, "assert_fit", refusing)
        with pytest.raises(services.ActivationFailed):
            services.activate(adapter.pk, None)
    for _ in range(3):
        assert services.scan(None).changed == 0
    assert states() == {"one": code} and kinds(adapter) == ["discovered", "failed"]
    read: list[str] = []
    judge = intake.validate

    def counted(*args: Any) -> Any:
        read.append(code)
        return judge(*args)

    monkeypatch.setattr(intake, "validate", counted)
    services.scan(None)
    assert read == [], "nothing has changed"
    folder = Path(BaseModel.objects.get().path)
    (folder / "README.md").write_text("the same model")
    services.scan(None)
    assert states() == {"one": code} and kinds(adapter) == ["discovered", "failed"]
    make.base_model(folder, rope_theta=5)
    services.scan(None)
    assert states() == {"one": "discovered"} and kinds(adapter) == ["discovered", "failed", "recovered"]


def test_a_refusal_by_values_stands_on_any_base(registry: Path) -> None:
    make.adapter(registry / "one", make.lora_tensors(b_fill=0.0))
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    with pytest.raises(services.ActivationFailed):
        services.activate(adapter.pk, None)
    make.base_model(Path(BaseModel.objects.get().path), rope_theta=5)
    services.scan(None)
    assert states() == {"one": "no_effect"} and kinds(adapter) == ["discovered", "failed"]


def test_a_refusal_of_activation_that_a_scan_finds_too_ends_with_the_base(registry: Path) -> None:
    """The base was another one for a while."""
    adapter = one(registry)
    folder = Path(BaseModel.objects.get().path)
    make.base_model(folder, hidden=32)
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "base_mismatch"
    make.base_model(folder)
    services.scan(None)
    assert states() == {"one": "discovered"}


def test_an_active_adapter_without_its_base_gives_one_line_of_history(registry: Path, tmp_path: Path) -> None:
    adapter = services.activate(one(registry).pk, None)
    os.rename(tmp_path / "models" / make.BASE_NAME, tmp_path / "away")
    make.age(registry / "one", 50)
    for _ in range(3):
        services.scan(None)
    adapter.refresh_from_db()
    assert adapter.flags == ["source_broken"] and kinds(adapter) == ["discovered", "activated", "changed"]
    os.rename(tmp_path / "away", tmp_path / "models" / make.BASE_NAME)
    services.scan(None)
    adapter.refresh_from_db()
    assert adapter.flags == [] and kinds(adapter) == ["discovered", "activated", "changed"]
