"""What training left beside the weights is activated with them, is part of their identity, and is shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from adapters import hooks, services, store
from adapters.lifecycle.mending import Outcome, mend
from adapters.models import LoraAdapter, Status
from adapters.tests import layouts as make
from adapters.tests.conftest import RecordingSide

pytestmark = pytest.mark.django_db

FILES: dict[str, dict[str, Any]] = {
    "tokenizer_config.json": {
        "eos_token": {"content": "<|im_end|>", "special": True}, "bos_token": None, "padding_side": "left",
        "added_tokens_decoder": {"60": {"content": "<|im_end|>"}, "61": {"content": "other"}},
    },
    "generation_config.json": {"eos_token_id": [7, 3], "temperature": 0.6, "top_k": 20, "top_p": 9, "max_length": 5},
    "special_tokens_map.json": {"eos_token": "</s>", "bos_token": "<s>"},
}  # fmt: skip


def with_files(folder: Path, template: str | None = "{{ messages }}", **files: Any) -> Path:
    make.adapter(folder)
    for name, data in {**FILES, **files}.items():
        make.write_json(folder / name, data)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def activated(name: str = "one") -> LoraAdapter:
    services.scan(None)
    return services.activate(LoraAdapter.objects.get(name=name).pk, None)


def said(adapter: LoraAdapter) -> Any:
    return json.loads((store.entry(adapter.digest) / store.PROMPTING).read_bytes())


@pytest.fixture
def templates(running_side: RecordingSide) -> Iterator[list[str]]:
    """The templates that the running side is asked about; it refuses "bad"."""
    asked: list[str] = []

    class Side(RecordingSide):
        def template_fault(self, template: str, tokens: Any) -> str:
            asked.append(template)
            return "it does not come to an end" if template == "bad" else ""

    hooks.register(Side())
    yield asked


def test_the_stored_copy_holds_what_training_left(registry: Path, templates: list[str]) -> None:
    with_files(registry / "one")
    adapter = activated()
    assert templates == ["{{ messages }}"]
    assert said(adapter) == {
        "chat_template": "{{ messages }}",
        "special_tokens": {"eos_token": "<|im_end|>", "bos_token": "<s>"},
        "end_tokens": ["<|im_end|>"],
        "end_ids": [3, 7],
        "token_ids": {"<|im_end|>": 60},
        "defaults": {"temperature": 0.6, "top_k": 20},  # 9 is no share
    }
    folder = store.entry(adapter.digest)
    names = ("adapter_config.json", "adapter_model.safetensors", "prompting.json")
    lines = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    assert adapter.digest == hashlib.sha256(lines.encode()).hexdigest()  # what sha256sum says
    assert store.verify(adapter.digest) and adapter.prompting["sha256"] == lines.split()[4]


INSIDE = [
    "{{ messages }}",
    [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ messages }}"}],
]


@pytest.mark.parametrize("inside", INSIDE, ids=["one", "several"])
def test_a_template_inside_the_tokenizers_settings_counts(registry: Path, inside: Any) -> None:
    with_files(registry / "one", None, **{"tokenizer_config.json": {"chat_template": inside}})
    assert said(activated())["chat_template"] == "{{ messages }}"


@pytest.mark.parametrize("name", [*FILES, "chat_template.jinja"])
def test_another_content_of_such_a_file_is_another_adapter(registry: Path, name: str) -> None:
    """Also where weights and config are the same; an edit in the training folder is an update, not yet an answer."""
    with_files(registry / "one")
    twin = with_files(registry / "two")
    if name.endswith(".jinja"):
        (twin / name).write_text("{{ other }}")
    else:
        make.write_json(twin / name, {"eos_token": "<e>", "bos_token": "<b>", "eos_token_id": 9, "temperature": 0.1})
    first, second = activated(), activated("two")
    assert first.digest != second.digest
    (registry / "one" / name).write_bytes((twin / name).read_bytes())
    services.scan(None)
    before = first.digest
    first.refresh_from_db()
    assert first.update_available and first.digest == before
    assert services.activate(first.pk, None).digest == second.digest


def test_without_such_files_a_copy_is_as_it_was(registry: Path) -> None:
    make.adapter(registry / "one")
    adapter = activated()
    assert {file.name for file in store.entry(adapter.digest).iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    assert adapter.prompting == {}


@pytest.mark.parametrize("damage", ["changed", "gone", "added"])
def test_a_damaged_one_is_made_again(registry: Path, damage: str) -> None:
    if damage == "added":
        make.adapter(registry / "one")
    else:
        with_files(registry / "one")
    adapter = activated()
    folder = store.entry(adapter.digest)
    state = store.state(adapter.digest)
    folder.chmod(0o755)
    file = folder / store.PROMPTING
    if damage == "gone":
        file.unlink()
    else:
        file.unlink(missing_ok=True)
        file.write_text('{"chat_template": "of a stranger"}')
    assert store.state(adapter.digest) != state and not store.verify(adapter.digest)
    assert mend(adapter.digest) is Outcome.MENDED
    assert store.verify(adapter.digest)


def test_a_template_that_never_ends_is_refused(registry: Path, templates: list[str]) -> None:
    with_files(registry / "one", "bad")
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    adapter.refresh_from_db()
    assert (caught.value.code, adapter.status) == ("template_unusable", Status.FAILED)
    assert "does not come to an end" in adapter.failure_message
    services.scan(None)
    adapter.refresh_from_db()
    assert adapter.status == Status.FAILED
    (registry / "one" / "chat_template.jinja").write_text("good now")
    services.scan(None)
    assert services.activate(adapter.pk, None).status == Status.ACTIVE


BROKEN: list[tuple[str, bytes, str]] = [
    ("tokenizer_config.json", b"{", "config_malformed"),
    ("generation_config.json", b"[]", "config_malformed"),
    ("chat_template.jinja", b"x" * (4 * 2**20 + 1), "config_too_large"),
]


@pytest.mark.parametrize(("name", "data", "code"), BROKEN, ids=lambda value: str(value)[:30])
def test_what_cannot_be_read_is_not_passed_over(registry: Path, name: str, data: bytes, code: str) -> None:
    with_files(registry / "one")
    (registry / "one" / name).write_bytes(data)
    services.scan(None)
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(LoraAdapter.objects.get().pk, None)
    assert caught.value.code == code


ODD: list[dict[str, Any]] = [
    {"eos_token": 5, "added_tokens_decoder": [], "chat_template": 7},
    {"eos_token": {"content": []}, "added_tokens_decoder": {"x": 1, "-1": {"content": "a"}}, "chat_template": [1]},
    {
        "eos_token": "x" * 5000,
        "eos_token_id": [True, -1, "a", 1.5],
        "temperature": "hot",
        "top_k": True,
        "top_p": 1e999,
    },
]


@pytest.mark.parametrize("data", ODD)
def test_odd_values_are_no_reason_to_fail(registry: Path, data: dict[str, Any]) -> None:
    odd = dict.fromkeys(FILES, data) | {"added_tokens.json": data}
    with_files(registry / "one", None, **odd)
    adapter = activated()
    assert adapter.status == Status.ACTIVE and adapter.prompting == {}


@pytest.mark.parametrize(
    ("template", "own", "same", "sentence"),
    [
        ("{{ messages }}", "adapter", False, {"en": "the adapter's own", "zh-hans": "适配器自带"}),
        (make.TEMPLATE, "adapter", True, {"en": "identical to the base model", "zh-hans": "与基座模型相同"}),
        (None, "base", False, {"en": "the base model's", "zh-hans": "使用基座模型的模板"}),
    ],
)
def test_page_and_api_say_what_answers(
    registry: Path, operator: User, template: str | None, own: str, same: bool, sentence: dict[str, str]
) -> None:
    with_files(registry / "one", template)
    adapter = activated()
    client = Client()
    client.force_login(operator)
    found = client.get(f"/api/lora/models/{adapter.pk}").json()["prompting"]
    assert found == {
        "chat_template": own, "same_as_base": same, "end_tokens": ["<|im_end|>", "3", "7"],
        "defaults": {"temperature": 0.6, "top_k": 20},
    }  # fmt: skip
    for language, words in sentence.items():
        page = client.get(f"/models/{adapter.pk}", headers={"accept-language": language}, follow=True).content.decode()
        shown = page.partition('data-testid="chat-template"')[2].partition("</dd>")[0].replace("&#x27;", "'")
        assert words in shown
        assert "&lt;|im_end|&gt;" in page and "temperature 0" in page
    services.deactivate(adapter.pk, None)
    assert client.get(f"/api/lora/models/{adapter.pk}").json()["prompting"] is None


ODD_TYPES: dict[str, Any] = {
    "chat_template": [{"name": ["default"], "template": "a"}, {"name": {}, "template": "b"},
                      {"name": "default", "template": "{{ messages }}"}],
    "eos_token": "<e>",
    "added_tokens_decoder": {"9" * 5000: {"content": "<e>"}, "\u0661": {"content": "<x>"}, "7": {"content": ["<e>"]}},
}  # fmt: skip


def test_settings_of_odd_types_are_not_there(registry: Path, tmp_path: Path) -> None:
    """An adapter's, and a base model's, which is read by every scan."""
    make.write_json(tmp_path / "models" / make.BASE_NAME / "tokenizer_config.json", ODD_TYPES)
    with_files(registry / "one", None, **{"tokenizer_config.json": ODD_TYPES})
    adapter = activated()
    assert said(adapter)["chat_template"] == "{{ messages }}" and "token_ids" not in said(adapter)
    assert adapter.prompting["chat_template"] == "same" and adapter.base.has_chat_template  # type: ignore[union-attr]
    assert services.scan(None).found == 1


def test_a_template_that_no_stored_copy_may_hold_is_refused_at_once(registry: Path) -> None:
    with_files(registry / "one", "\u0001" * 400_000)  # six bytes each in JSON
    with pytest.raises(services.ActivationFailed) as caught:
        activated()
    assert (caught.value.code, caught.value.details["file"]) == ("config_too_large", "chat_template.jinja")
    with_files(registry / "two", "\u0001" * 300_000)
    assert store.verify(activated("two").digest)
