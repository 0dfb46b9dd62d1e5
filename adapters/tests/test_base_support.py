"""Bases that the running side cannot serve are refused when they are registered, until something changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import OperationalError

from adapters import hooks, services
from adapters.bases import support
from adapters.lifecycle import editing
from adapters.models import BaseModel, LoraAdapter
from adapters.tests import layouts
from adapters.tests.conftest import RecordingSide

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def base_folder(registry: Path) -> Path:
    layouts.adapter(registry / "plain")
    return registry.parent / "models" / layouts.BASE_NAME


@pytest.fixture
def answering(settings: Any, running_side: RecordingSide) -> Iterator[Callable[[Any], list[str]]]:
    """Registers an answer (a reason, all of it, or an exception); gives the folders that were asked for."""
    settings.CHECK_BASES = True

    def answer(value: Any) -> list[str]:
        asked: list[str] = []

        class Side(RecordingSide):
            def base_support(self, folder: str) -> hooks.BaseSupport:
                asked.append(folder)
                if isinstance(value, Exception):
                    raise value
                return value if isinstance(value, hooks.BaseSupport) else hooks.BaseSupport(str(value))

        hooks.register(Side())
        return asked

    yield answer
    support.wait()


def look() -> None:
    services.scan(None)
    support.wait()


def test_a_refused_base_says_why_and_its_adapters_do_not_activate(
    answering: Callable[[Any], list[str]], base_folder: Path, operator: User
) -> None:
    asked = answering("its attention uses sinks")
    look()
    base = BaseModel.objects.get()
    assert asked == [base.path]
    assert not base.usable and base.problem_code == "base_unsupported"
    assert "its attention uses sinks" in base.problem_message
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(LoraAdapter.objects.get().pk, operator)
    assert caught.value.code == "base_broken" and "sinks" in str(caught.value.details)
    look()
    assert asked == [base.path], "asked once for a content"
    assert LoraAdapter.objects.get().failure_code == "base_broken"


def test_a_good_base_stays_usable_and_is_asked_about_once(
    answering: Callable[[Any], list[str]], base_folder: Path
) -> None:
    asked = answering("")
    look()
    look()
    assert len(asked) == 1 and BaseModel.objects.get().usable


def test_another_release_of_the_library_is_asked_again(
    answering: Callable[[Any], list[str]], base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering("unknown architecture")
    look()
    monkeypatch.setattr(support, "version", lambda name: "99.0")
    asked = answering("")
    look()
    base = BaseModel.objects.get()
    assert len(asked) == 1 and base.usable and base.refusal == ""


def test_a_base_that_has_changed_is_asked_again(answering: Callable[[Any], list[str]], base_folder: Path) -> None:
    answering("unknown architecture")
    look()
    config = base_folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.5}))
    asked = answering("")
    look()
    assert len(asked) == 1 and BaseModel.objects.get().usable


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_refusal_ends_when_any_of_the_files_is_replaced(
    answering: Callable[[Any], list[str]], base_folder: Path, file: str
) -> None:
    """It may lie in the weights or the tokenizer, as what a load showed often does."""
    answering("")
    look()
    support.record_refusal(BaseModel.objects.get().key, "its files lack 1 tensor (lm_head.weight) of the model")
    asked = answering("")
    look()
    assert asked == [] and "lm_head.weight" in BaseModel.objects.get().problem_message
    replacement = base_folder / "replacement"
    replacement.write_bytes((base_folder / file).read_bytes())
    replacement.replace(base_folder / file)
    look()
    assert len(asked) == 1 and BaseModel.objects.get().usable


def test_another_release_of_the_tokenizers_is_asked_again(
    answering: Callable[[Any], list[str]], base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering("its tokenizer cannot be read")
    look()
    monkeypatch.setattr(support, "version", lambda name: "99.0" if name == "tokenizers" else "1.0")
    asked = answering("")
    look()
    assert len(asked) == 1 and BaseModel.objects.get().usable


def test_an_answer_that_fails_leaves_the_base_to_another_scan(
    answering: Callable[[Any], list[str]], base_folder: Path
) -> None:
    answering(TimeoutError("too long"))
    look()
    assert BaseModel.objects.get().usable
    asked = answering("")
    look()
    assert len(asked) == 1


def test_a_broken_base_is_not_asked_about(answering: Callable[[Any], list[str]], base_folder: Path) -> None:
    (base_folder / "tokenizer.json").unlink()
    asked = answering("whatever")
    look()
    assert asked == [] and BaseModel.objects.get().problem_code == "base_tokenizer_missing"


def test_what_only_the_first_load_showed_is_kept(answering: Callable[[Any], list[str]], base_folder: Path) -> None:
    answering("")
    look()
    support.record_refusal(BaseModel.objects.get().key, "its logits differ by 1e-1")
    assert "1e-1" in BaseModel.objects.get().problem_message
    look()
    assert BaseModel.objects.get().problem_code == "base_unsupported"


def test_the_command_waits_for_the_answer(
    answering: Callable[[Any], list[str]], base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answering("its attention uses sinks")
    call_command("scan_adapters")
    assert "its attention uses sinks" in capsys.readouterr().out


def renamed(role: str = "carries", tower: str = "idle", others: str = "carries") -> hooks.BaseSupport:
    """The base's layers under names that are not in its files, and a tower. `role`: of v_proj alone."""
    layers = {
        layouts.module(layer, name).replace("model.layers", "model.language_model.layers"):
        (layouts.OUT[name], layouts.IN[name], role if name == "v_proj" else others)
        for layer in range(layouts.LAYERS) for name in layouts.OUT
    }  # fmt: skip
    return hooks.BaseSupport("", {**layers, "model.vision_tower.layers.0.q_proj": (4, 4, tower)})


def test_names_of_an_earlier_release_are_understood(
    answering: Callable[[Any], list[str]], base_folder: Path, operator: User
) -> None:
    """Also where it leaves out what the tower has, since no text goes there."""
    said = renamed()
    earlier = {name.replace("language_model.", ""): name for name in said.layers if "language_model" in name}
    answering(hooks.BaseSupport("", said.layers, earlier))
    look()
    adapter = LoraAdapter.objects.get(name="plain")
    assert adapter.failure_code == ""
    assert services.activate(adapter.pk, operator).status == "active"


def run_time_adapter(folder: Path) -> Path:
    tensors = {name.replace("model.layers", "model.language_model.layers"): value for name, value in
               layouts.lora_tensors().items()}  # fmt: skip
    for side, shape in (("A", (4, 4)), ("B", (4, 4))):
        name = f"base_model.model.model.vision_tower.layers.0.q_proj.lora_{side}.weight"
        tensors[name] = ("F32", shape, layouts.values(shape))
    return layouts.adapter(folder, tensors)


def test_adapters_are_compared_with_the_names_of_the_running_model(
    answering: Callable[[Any], list[str]], base_folder: Path, registry: Path, operator: User
) -> None:
    """Refused by the names in the files, it is found to fit as soon as the running side has named its layers; one that
    fits the files alone is not offered any more."""
    run_time_adapter(registry / "renamed")
    answering(renamed())
    look()
    states = {a.name: (a.status, a.failure_code) for a in LoraAdapter.objects.all()}
    assert states == {"renamed": ("discovered", ""), "plain": ("failed", "repairable")}
    adapter = services.activate(LoraAdapter.objects.get(name="renamed").pk, operator)
    assert adapter.status == "active"


def test_they_are_compared_again_where_a_scan_wins_the_rows(
    answering: Callable[[Any], list[str]], base_folder: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_status = editing.settle_status
    lost: list[str] = []

    def losing(adapter: LoraAdapter, *args: Any) -> None:
        settle_status(adapter, *args)
        if len(lost) < 2:
            lost.append(adapter.name)
            raise OperationalError(1213, "Deadlock found when trying to get lock; try restarting transaction")

    monkeypatch.setattr(editing, "settle_status", losing)
    answering(renamed())
    look()
    assert lost == ["plain", "plain"]
    adapter = LoraAdapter.objects.get(name="plain")
    assert (adapter.status, adapter.failure_code) == ("failed", "repairable")
    assert [event.kind for event in adapter.events.all()].count("failed") == 1


def test_an_activation_does_not_refuse_by_names_that_nobody_has_asked_for(
    answering: Callable[[Any], list[str]], base_folder: Path, registry: Path, operator: User
) -> None:
    answering(TimeoutError("too long"))
    run_time_adapter(registry / "renamed")
    look()
    assert LoraAdapter.objects.get(name="renamed").failure_code.startswith("tensors_")
    answering(renamed())
    assert services.activate(LoraAdapter.objects.get(name="renamed").pk, operator).status == "active"


@pytest.mark.parametrize(("role", "code"), [("fixed", "tensors_unserved"), ("idle", "")])
def test_layers_that_cannot_carry_an_adapter(
    answering: Callable[[Any], list[str]], base_folder: Path, registry: Path, role: str, code: str
) -> None:
    run_time_adapter(registry / "renamed")
    answering(renamed(role))
    look()
    assert LoraAdapter.objects.get(name="renamed").failure_code == code


def test_an_adapter_that_text_never_meets_has_no_effect(
    answering: Callable[[Any], list[str]], base_folder: Path, registry: Path
) -> None:
    answering(renamed("idle", others="idle"))
    run_time_adapter(registry / "renamed")
    look()
    assert LoraAdapter.objects.get(name="renamed").failure_code == "no_effect"
