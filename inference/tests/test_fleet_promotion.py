"""Activation with a fleet: linted, published, asked once; refused with a code; withdrawn at the end."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from adapters import services, store
from adapters.failures import ActivationFailed
from adapters.models import LoraAdapter, Status
from adapters.tests import layouts
from inference.backends.fleet.lint import objection
from inference.backends.fleet.probe import ProbeAnswer, ProbeOutcome
from inference.backends.fleet.prompts import Prompts
from inference.engine.errors import EngineError
from inference.manager import set_manager
from tests.fixtures.portal import wait_for

from .fake_vllm import FakeVllm
from .fleet import fleet_manager
from .fleet import store as stored

PAIR = ["base_model.model.q_proj.lora_A.weight", "base_model.model.q_proj.lora_B.weight"]
pytestmark = pytest.mark.django_db(transaction=True)


def one() -> LoraAdapter:
    return LoraAdapter.objects.get(name="one")


def refusal() -> ActivationFailed:
    with pytest.raises(ActivationFailed) as caught:
        services.activate(one().pk, None)
    assert caught.value.message and "?" not in caught.value.message
    return caught.value


def test_activation_promotes(fleet: SimpleNamespace) -> None:
    adapter = services.activate(one().pk, None)
    assert adapter.status == Status.ACTIVE
    published = fleet.folder / adapter.digest
    assert sorted(os.listdir(published)) == ["adapter_config.json", "adapter_model.safetensors"]
    weights = store.entry(adapter.digest) / "adapter_model.safetensors"
    assert (published / "adapter_model.safetensors").read_bytes() == weights.read_bytes()
    config = json.loads((published / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"/srv/{layouts.BASE_NAME}"
    assert published.stat().st_mode & 0o005 == 0o005, "a replica may run as another user"
    report = LoraAdapter.objects.get(pk=adapter.pk).promotion
    assert report["steps"] == ["linted", "published", "probed"]
    assert (report["served"], report["version"]) == ("base", "0.32.0")
    assert report["probe"]["text"].startswith(adapter.digest[:6]) and report["probe"]["base_text"].startswith("base")
    assert report["probe"]["difference"] > 0.1 > report["probe"]["noise"]
    assert [name for name in os.listdir(fleet.folder) if name.startswith(".")] == []


def test_the_page_shows_the_report(fleet: SimpleNamespace, client: Any, admin_user: Any) -> None:
    adapter = services.activate(one().pk, None)
    client.force_login(admin_user)
    page = client.get(f"/models/{adapter.pk}").content.decode()
    assert 'data-testid="promotion"' in page and "vLLM 0.32.0" in page
    assert f"{adapter.digest[:6]} says" in page and 'data-step="probed"' in page
    services.deactivate(adapter.pk, None)
    assert 'data-testid="promotion"' not in client.get(f"/models/{adapter.pk}").content.decode()


def test_compared_with_the_engine_here(
    fleet: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, make_manager: Any, client: Any, admin_user: Any
) -> None:
    adapter = services.activate(one().pk, None)
    monkeypatch.setattr("inference.management.commands.compare_engines.ModelManager", lambda _make: make_manager())
    call_command("compare_engines", "one", stdout=(said := io.StringIO()))
    assert "one: another answer" in said.getvalue() and "0 of 1" in said.getvalue()
    probe = one().promotion["probe"]
    assert probe["local_text"].startswith("one says Who are you") and probe["same_as_local"] is False
    client.force_login(admin_user)
    assert 'data-testid="local-text"' in client.get(f"/models/{adapter.pk}").content.decode()
    with pytest.raises(CommandError, match="no such active adapter"):
        call_command("compare_engines", "two")


def test_activating_again_publishes_again(fleet: SimpleNamespace) -> None:
    """As where the volume was lost, or the adapter was activated before there was a fleet."""
    adapter = services.activate(one().pk, None)
    shutil.rmtree(fleet.folder / adapter.digest)
    fleet.server.loaded.clear()
    services.activate(adapter.pk, None)
    assert (fleet.folder / adapter.digest).is_dir() and fleet.server.loaded == [adapter.digest]


def test_a_fleet_that_answers_as_the_base_does(fleet: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = FakeVllm._resolve

    def silently(server: FakeVllm, name: str) -> tuple[int, str]:
        if name != server.served:
            server.deaf.add(name)
        return resolve(server, name)

    monkeypatch.setattr(FakeVllm, "_resolve", silently)
    assert refusal().code == "no_effect"
    adapter = one()
    assert (adapter.status, adapter.failure_code) == (Status.FAILED, "no_effect")
    assert os.listdir(fleet.folder) == [], "nothing of it stays"
    assert fleet.server.unloaded, "nor in the replica"


def test_a_template_that_refuses_the_question(fleet: SimpleNamespace) -> None:
    (fleet.root / "one" / "chat_template.jinja").write_text("{{ raise_exception('no questions') }}")
    services.scan(None)
    refused = refusal()
    assert refused.code == "template_unusable" and refused.details["reason"] == "no questions"
    assert os.listdir(fleet.folder) == [], "nothing of it stays"


def test_rank_over_the_fleets_maximum(fleet: SimpleNamespace) -> None:
    fleet.settings.FLEET_MAX_RANK = 2
    refused = refusal()
    assert refused.code == "fleet_rank" and refused.details["limit"] == 2
    assert one().status == Status.FAILED and not fleet.folder.exists()


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        ("bad", "fleet_load_refused"),
        ("unseen", "fleet_not_seen"),
        ("other_base", "fleet_base_missing"),
        ("away", "fleet_unreachable"),
        ("key", "fleet_key_refused"),
        ("nonsense", "fleet_unreachable"),
        ("question", "fleet_unreachable"),
        ("unwritable", "fleet_unwritable"),
    ],
)
def test_troubles(fleet: SimpleNamespace, trouble: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fleet.server
    if trouble == "bad":
        server.bad = Everything()
    elif trouble == "unseen":
        server.folder = fleet.root
    elif trouble == "other_base":
        server.root = "/srv/quite-another"
    elif trouble == "away":
        server.stop()
    elif trouble == "key":
        server.key = "secret"
    elif trouble == "question":
        message = "Requested sample logprobs of 5, which is greater than max allowed: 3"
        said = {"error": {"message": message, "type": "BadRequestError", "param": "logprobs", "code": 400}}
        server.override["/v1/completions"] = (400, json.dumps(said).encode())
    elif trouble == "nonsense":
        server.override["/v1/completions"] = (200, b'{"model": "x"}')
    else:
        fleet.folder.write_text("a file in its place")
    refused = refusal()
    assert refused.code == code
    lasting = trouble == "bad"
    assert one().status == (Status.FAILED if lasting else Status.DISCOVERED), "what an operator mends fails no adapter"
    assert one().events.latest("id").code == code
    if fleet.folder.is_dir():
        assert os.listdir(fleet.folder) == []


class Everything(set[str]):
    def __contains__(self, name: object) -> bool:
        return True


def test_deactivation_withdraws(fleet: SimpleNamespace) -> None:
    adapter = services.activate(one().pk, None)
    digest = adapter.digest
    services.deactivate(adapter.pk, None)
    assert not (fleet.folder / digest).exists() and fleet.server.unloaded == [digest]


def test_a_portal_that_has_asked_withdraws_as_well(fleet: SimpleNamespace, tmp_path: Path) -> None:
    adapter = services.activate(one().pk, None)
    digest = adapter.digest
    manager = fleet_manager(fleet.folder, fleet.server.url)
    set_manager(manager)
    try:
        services.deactivate(adapter.pk, None)
        assert manager.drain(digest, 5)
        wait_for(lambda: not (fleet.folder / digest).exists(), what="the withdrawal")
    finally:
        manager.close()


def test_twins_keep_the_folder(fleet: SimpleNamespace) -> None:
    """Two rows of the same content: the last to go takes it away."""
    shutil.copytree(fleet.root / "one", fleet.root / "two")
    services.scan(None)
    first = services.activate(one().pk, None)
    second = services.activate(LoraAdapter.objects.get(name="two").pk, None)
    assert first.digest == second.digest
    services.deactivate(first.pk, None)
    assert (fleet.folder / second.digest).is_dir()
    services.deactivate(second.pk, None)
    assert not (fleet.folder / second.digest).exists()


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"use_dora": True}, "dora_unsupported"),
        ({"lora_bias": True}, "bias_unsupported"),
        ({"bias": "all"}, "bias_unsupported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication_unsupported"),
        ({"alora_invocation_tokens": [1]}, "variant_unsupported"),
        ({"use_qalora": True}, "variant_unsupported"),
        ({"init_lora_weights": "pissa"}, "init_changes_base"),
        ({"r": 17}, "fleet_rank"),
        ({"rank_pattern": {"q_proj": 32}}, "fleet_rank"),
        ({"rank_pattern": {"q_proj": 4}, "modules_to_save": ["score"]}, ""),
    ],
)
def test_what_vllm_refuses(config: dict[str, Any], code: str) -> None:
    found = objection({"r": 8, **config}, 16, PAIR)
    assert (found.code if found else "") == code


@pytest.mark.parametrize(
    ("tensor", "code"),
    [
        ("lm_head.weight", "modules_to_save_unsupported"),
        ("model.norm.weight", "modules_to_save_unsupported"),
        ("q_proj.base_layer.bias", "bias_unsupported"),
        ("q_proj.lora_B.bias", "bias_unsupported"),
        ("embed_tokens.lora_embedding_A", "variant_unsupported"),
    ],
)
def test_what_vllm_refuses_by_its_tensors(tensor: str, code: str) -> None:
    found = objection({"r": 8}, 16, [*PAIR, f"base_model.model.{tensor}"])
    assert found is not None and found.code == code


def test_tokens_of_its_own_are_an_objection(tmp_path: Path) -> None:
    """Also at a request, for an adapter that was activated before there was a fleet."""
    found = objection({"r": 8}, 16, PAIR, 2)
    assert found is not None and (found.code, found.details) == ("tokens_unsupported", {"count": 2})
    adapter = stored(tmp_path, "own", {"added_tokens": [{"id": 9, "content": "<call>"}]})
    with pytest.raises(EngineError) as caught:
        Prompts().prompting(adapter)
    assert caught.value.code == "adapter_incompatible" and len(Prompts().left(adapter).added) == 1


def test_layers_that_stayed_behind_are_no_objection() -> None:
    assert objection({"r": 8, "modules_to_save": ["lm_head"]}, 16, PAIR) is None


def test_the_probe_compares_as_long_as_the_texts_agree() -> None:
    base = ProbeAnswer("a b", ({1: -0.1, 2: -2.0}, {3: -0.2, 4: -1.0}))
    rounded = ProbeAnswer("a b", ({1: -0.10005, 2: -2.0}, {3: -0.2, 4: -1.0}))
    other = ProbeAnswer("a b", ({1: -0.3, 2: -2.0}, {3: -0.2, 4: -1.0}))
    forked = ProbeAnswer("a c", ({1: -0.1, 2: -2.0}, {4: -0.2, 3: -1.0}))
    assert base.apart(base) == 0 and 0 < base.apart(rounded) < 1e-4
    assert base.apart(other) == pytest.approx(0.2) and base.apart(forked) == pytest.approx(0.8)
    assert base.apart(ProbeAnswer("z", ({9: -0.1},))) == float("inf")
    assert not ProbeOutcome("a", "a", 5e-5, 0.0).effective and not ProbeOutcome("a", "a", 0.03, 0.01).effective
    assert ProbeOutcome("a", "a", 0.05, 0.01).effective and ProbeOutcome("a", "b", 0.0, 0.0).effective
