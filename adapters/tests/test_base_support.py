"""Bases that the running side cannot serve are refused when they are registered, until something changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command

from adapters import hooks, services
from adapters.bases import support
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
    """Registers an answer (a reason, or an exception); gives the folders that were asked for."""
    settings.CHECK_BASES = True

    def answer(value: Any) -> list[str]:
        asked: list[str] = []

        class Side(RecordingSide):
            def base_support(self, folder: str) -> str:
                asked.append(folder)
                if isinstance(value, Exception):
                    raise value
                return str(value)

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
