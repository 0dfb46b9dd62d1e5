"""The adapter doctor: what other tools and broken runs leave is told as what it is, and repaired where one way fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from adapters import services
from adapters.formats.peft_types import CONVERTIBLE
from adapters.models import AdapterEvent, LoraAdapter, Status, repair_of
from adapters.tests import foreign, peft_types
from adapters.tests import layouts as make
from adapters.tests.interference import contents

pytestmark = pytest.mark.django_db


def scanned(name: str = "one") -> LoraAdapter:
    services.scan(None)
    return LoraAdapter.objects.get(name=name)


def stored(adapter: LoraAdapter) -> make.Tensors:
    return foreign.unpacked(adapter.store_path / "adapter_model.safetensors")


def written(case: str, folder: Path) -> make.Tensors:
    """The folder of a case; returns the tensors that PEFT would have saved."""
    if case in foreign.SHARED:
        tensors = foreign.shared()
    else:
        tensors = make.lora_tensors(targets=tuple(make.OUT))
    targets = sorted({name.split(".")[-3] for name in tensors})
    foreign.CASES[case][0](folder, tensors, make.config(target_modules=targets))
    return tensors


@pytest.mark.parametrize("case", foreign.CASES)
def test_repaired_into_what_peft_would_have_saved(registry: Path, operator: Any, case: str) -> None:
    folder = registry / "one"
    folder.mkdir()
    wanted = written(case, folder)
    before = contents(folder)
    adapter = scanned()
    assert (adapter.status, adapter.failure_code) == (Status.FAILED, "repairable")
    found = repair_of(adapter)
    assert found is not None and found.kinds == foreign.CASES[case][1] and found.changes
    with pytest.raises(services.ActivationFailed) as caught:  # nothing is repaired unless somebody agrees
        services.activate(adapter.pk, operator)
    assert caught.value.code == "repairable"

    adapter = services.repair(adapter.pk, operator, found.plan)
    assert adapter.status == Status.ACTIVE and "repaired" in adapter.flags
    assert stored(adapter) == wanted
    config = json.loads((adapter.store_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert sorted(config["target_modules"]) == sorted({name.split(".")[-3] for name in wanted})
    assert contents(folder) == before
    kinds = list(AdapterEvent.objects.filter(adapter=adapter).order_by("pk").values_list("kind", flat=True))
    assert kinds[-2:] == ["repaired", "activated"]

    services.scan(None)  # stays repaired, also when it is taken out of service and back
    adapter.refresh_from_db()
    assert (adapter.status, adapter.update_available) == (Status.ACTIVE, False) and "repaired" in adapter.flags
    digest = adapter.digest
    services.deactivate(adapter.pk, operator)
    assert scanned().failure_code == ""
    assert services.activate(adapter.pk, operator).digest == digest


def assert_ambiguous(adapter: LoraAdapter, *names: str) -> None:
    assert adapter.failure_code == "repair_ambiguous" and repair_of(adapter) is None
    for name in names:
        assert name in adapter.failure_message
    with pytest.raises(services.NothingToRepair):
        services.repair(adapter.pk, None)


def deeper_base(folder: Path, keep: bool) -> None:
    """A base whose layers lie below `language_model`, as in multimodal models; with `keep` where they were as well."""
    path = make.base_model(folder) / "model.safetensors"
    tensors: make.Tensors = {}
    for name, entry in foreign.unpacked(path).items():
        tensors[name.replace("model.", "model.language_model.", 1)] = entry
        if keep:
            tensors[name] = entry
    path.write_bytes(make.pack(tensors))


def test_where_two_ways_fit_both_are_named(registry: Path, tmp_path: Path) -> None:
    """A base with two towers of the same shape, of which a file without PEFT's prefix may mean either."""
    deeper_base(tmp_path / "models" / "Towers", keep=True)
    foreign.bare(registry / "one", make.lora_tensors(), make.config(base_model_name_or_path="Towers"))
    assert_ambiguous(scanned(), "model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj")


def test_language_model_is_missing_in_the_keys(registry: Path, tmp_path: Path) -> None:
    deeper_base(tmp_path / "models" / "Deep", keep=False)
    make.adapter(registry / "one", base_model_name_or_path="Deep")
    adapter = scanned()
    assert adapter.failure_code == "repairable" and "language_model" in adapter.failure_message
    wanted = foreign.renamed(
        make.lora_tensors(), lambda name: name.replace("model.layers", "model.language_model.layers")
    )
    assert stored(services.repair(adapter.pk, None)) == wanted


def test_two_adapters_in_one_file(registry: Path) -> None:
    tensors = {name.replace(".weight", ".first.weight"): entry for name, entry in make.lora_tensors().items()}
    tensors |= {name.replace(".first.", ".second."): entry for name, entry in tensors.items()}
    make.adapter(registry / "one", tensors)
    assert_ambiguous(scanned(), "first", "second")


def test_mlx_says_two_scales(registry: Path) -> None:
    """Earlier releases multiplied by alpha / rank, later ones take the same config and do not."""
    folder = registry / "one"
    foreign.mlx(folder, make.lora_tensors(), make.config())
    said = json.loads((folder / "adapter_config.json").read_text())
    said["lora_parameters"]["alpha"] = 16
    make.write_json(folder / "adapter_config.json", said)
    assert_ambiguous(scanned(), "scale = 2", "alpha / rank")
    said["lora_parameters"]["alpha"] = 4  # of rank 4: both are the same
    make.write_json(folder / "adapter_config.json", said)
    assert scanned().failure_code == "repairable"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"lora_parameters": {"rank": 8, "scale": 2.0}}, "rank_mismatch"),
        ({"lora_parameters": {"rank": 4, "scale": "20"}}, "config_invalid"),
        ({"lora_parameters": {"rank": 4, "scale": 10**400}}, "config_invalid"),
        ({"fine_tune_type": "full"}, "config_invalid"),
        ({"num_layers": 2, "lora_parameters": {"rank": 4, "scale": 2.0, "keys": ["mlp.up_proj"]}}, "tensors_missing"),
        ({"model": "org/unknown"}, "base_not_found"),
    ],
    ids=["rank", "scale", "vast", "full", "missing", "base"],
)
def test_mlx_that_cannot_be_repaired(registry: Path, change: dict[str, Any], code: str) -> None:
    folder = registry / "one"
    foreign.mlx(folder, make.lora_tensors(), make.config())
    said = json.loads((folder / "adapter_config.json").read_text())
    make.write_json(folder / "adapter_config.json", said | change)
    assert scanned().failure_code == code


def test_what_was_trained_on_stays_in_the_patterns(registry: Path) -> None:
    """An alpha for one module by the name that it had in training is still its alpha."""
    changes = {"alpha_pattern": {"layers.0.attn.q_proj": 32}, "rank_pattern": {}}
    foreign.torchtune(registry / "one", make.lora_tensors(), make.config(**changes))
    adapter = scanned()
    adapter = services.repair(adapter.pk, None)
    config = json.loads((adapter.store_path / "adapter_config.json").read_text())
    assert config["alpha_pattern"] == {"model.layers.0.self_attn.q_proj": 32.0}


def test_a_changed_folder_is_looked_at_anew(registry: Path, operator: Any) -> None:
    folder = registry / "one"
    foreign.compiled(folder, make.lora_tensors(), make.config())
    adapter = services.repair(scanned().pk, operator)
    served = adapter.digest
    foreign.compiled(folder, make.lora_tensors(seed=7), make.config())
    adapter = scanned()
    found = repair_of(adapter)
    assert (adapter.status, adapter.digest) == (Status.ACTIVE, served)  # what was agreed to is what is served
    assert "source_broken" in adapter.flags and found is not None and found.accepted_at is None
    adapter = services.repair(adapter.pk, operator, found.plan)
    assert adapter.digest != served and stored(adapter) == make.lora_tensors(seed=7)
    make.adapter(folder, seed=8)  # saved as it should be
    adapter = scanned()
    assert adapter.update_available and repair_of(adapter) is None
    assert "repaired" not in services.activate(adapter.pk, operator).flags


def test_a_damaged_repaired_copy_is_made_again(registry: Path, operator: Any) -> None:
    foreign.sharded(registry / "one", make.lora_tensors(), make.config())
    adapter = services.repair(scanned().pk, operator)
    path = adapter.store_path / "adapter_model.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    services.scan(None)
    adapter.refresh_from_db()
    assert adapter.status == Status.ACTIVE and stored(adapter) == make.lora_tensors()


def test_a_plan_that_is_not_the_one_shown_is_not_carried_out(registry: Path) -> None:
    foreign.compiled(registry / "one", make.lora_tensors(), make.config())
    adapter = scanned()
    with pytest.raises(services.BusyError) as caught:
        services.repair(adapter.pk, None, "0" * 64)
    assert caught.value.code == "repair_changed"
    adapter.refresh_from_db()
    assert adapter.status == Status.FAILED


def test_layers_of_the_base_that_were_trained_are_not_left_out(registry: Path) -> None:
    folder = registry / "one"
    tensors = make.lora_tensors()
    foreign.whole(folder, tensors, make.config())
    tensors = foreign.renamed(tensors, lambda name: name.replace(".weight", ".default.weight"))
    shape = (make.HIDDEN, make.HIDDEN)
    name = f"{foreign.PREFIX}{make.module(0, 'q_proj')}.base_layer.weight"
    tensors[name] = ("BF16", shape, make.values(shape, "BF16", 5))
    foreign.save(folder, tensors, make.config())
    adapter = scanned()
    assert adapter.failure_code == "modules_to_save_unsupported" and repair_of(adapter) is None


# Pickled weights: what is in them is known when they were converted -------------------------------------------------


def test_pickled_weights_are_repaired_once_their_names_are_known(registry: Path, operator: Any) -> None:
    foreign.compiled_pickle(registry / "one", make.lora_tensors(), make.config())
    adapter = scanned()
    assert adapter.status == Status.DISCOVERED
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, operator)
    assert caught.value.code == "repairable"
    adapter = scanned()
    assert (adapter.status, adapter.failure_code) == (Status.FAILED, "repairable")
    adapter = services.repair(adapter.pk, operator)
    assert stored(adapter) == make.lora_tensors()
    assert scanned().status == Status.ACTIVE and not scanned().update_available


@pytest.mark.parametrize("key", ["state_dict", "module"])
def test_tensors_within_a_checkpoint(registry: Path, key: str) -> None:
    make.adapter(registry / "one")
    (registry / "one" / "adapter_model.safetensors").unlink()
    data = foreign.pickled(make.lora_tensors(), lambda found: {key: found, "epoch": 3, "optimizer": {"lr": 0.1}})
    (registry / "one" / "adapter_model.bin").write_bytes(data)
    adapter = services.activate(scanned().pk, None)
    assert stored(adapter) == make.lora_tensors() and "weights_unwrapped" in adapter.flags


def test_two_sets_of_tensors_within_a_checkpoint(registry: Path) -> None:
    make.adapter(registry / "one")
    (registry / "one" / "adapter_model.safetensors").unlink()
    data = foreign.pickled(make.lora_tensors(), lambda found: {"state_dict": found, "ema": found})
    (registry / "one" / "adapter_model.bin").write_bytes(data)
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(scanned().pk, None)
    assert (caught.value.code, caught.value.details["reason"]) == (
        "pickle_refused", "contains several mappings of tensors",
    )  # fmt: skip


# Remarks: what needs no decision -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "remark"),
    [
        (make.config(task_type=None), "task_type_differs"),
        (make.config(task_type="SEQ_2_SEQ_LM"), "task_type_differs"),
        (make.config(target_modules=["q_proj", "v_proj", "q_proj"]), "targets_repeated"),
        (make.config(unheard_of={"x": 1}), "config_keys_unknown"),
        (foreign.old_config(), ""),
    ],
    ids=["no-task", "seq2seq", "twice", "new", "old"],
)
def test_remarks(registry: Path, config: dict[str, Any], remark: str) -> None:
    make.adapter(registry / "one")
    make.write_json(registry / "one" / "adapter_config.json", config)
    adapter = services.activate(scanned().pk, None)
    assert adapter.flags == ([remark] if remark else [])
    assert json.loads((adapter.store_path / "adapter_config.json").read_text()) == config


def test_tokens_below_the_vocabulary_are_none_that_were_added(registry: Path) -> None:
    make.adapter(registry / "one")
    added = registry / "one" / "added_tokens.json"
    make.write_json(added, {"<|im_end|>": make.VOCAB - 1})
    assert "tokens_added" not in scanned().flags
    make.write_json(added, {"<|im_end|>": make.VOCAB - 1, "<new>": make.VOCAB})
    assert "tokens_added" in scanned().flags


def test_flat_pieces_of_one_process_are_told_as_such(registry: Path) -> None:
    tensors = make.lora_tensors()
    for name, (dtype, shape, data) in list(tensors.items())[1::2]:
        tensors[name] = (dtype, (shape[0] * shape[1],), data)
    make.adapter(registry / "one", tensors)
    adapter = scanned()
    assert adapter.failure_code == "weights_flat" and "without gathering" in adapter.failure_message


# Bounds --------------------------------------------------------------------------------------------------------------


def shards(folder: Path, table: Any, pad: int = 0) -> None:
    foreign.sharded(folder, make.lora_tensors(), make.config())
    text = json.dumps({"weight_map": table} if table is not None else {})
    (folder / "adapter_model.safetensors.index.json").write_text(text + " " * pad)


@pytest.mark.parametrize(
    ("table", "pad", "code"),
    [
        ({"a": "../../secret.safetensors"}, 0, "config_malformed"),
        ({"a": "/etc/passwd"}, 0, "config_malformed"),
        ({"a": "adapter_model.safetensors"}, 0, "config_malformed"),
        ({"a": ["adapter_model-00001-of-00002.safetensors"]}, 0, "config_malformed"),
        ({str(n): f"adapter_model-{n:05d}-of-00099.safetensors" for n in range(99)}, 0, "config_malformed"),
        ({"a" * 5000: "adapter_model-00001-of-00002.safetensors"}, 0, "weights_malformed"),
        ({"a": "adapter_model-00007-of-00009.safetensors"}, 0, "files_missing"),
        ({}, 0, "config_malformed"),
        (None, 0, "config_malformed"),
        ({"a": "adapter_model-00001-of-00002.safetensors"}, 2**21, "config_too_large"),
    ],
    ids=["above", "absolute", "other", "list", "many", "long", "gone", "empty", "none", "huge"],
)
def test_hostile_indexes(registry: Path, table: Any, pad: int, code: str) -> None:
    shards(registry / "one", table, pad)
    adapter = scanned()
    assert adapter.failure_code == code and repair_of(adapter) is None
    assert len(json.dumps(adapter.failure_details)) < 2000


def test_a_shard_that_is_a_link_out_of_the_roots(registry: Path, tmp_path: Path) -> None:
    folder = registry / "one"
    foreign.sharded(folder, make.lora_tensors(), make.config())
    shard = folder / "adapter_model-00001-of-00002.safetensors"
    shard.rename(tmp_path / "outside.safetensors")
    shard.symlink_to(tmp_path / "outside.safetensors")
    assert scanned().failure_code == "outside_root"


def test_a_name_of_thousands_of_characters(registry: Path) -> None:
    tensors = {"_orig_mod." * 500 + name: entry for name, entry in make.lora_tensors().items()}
    make.adapter(registry / "one", tensors)
    adapter = scanned()
    assert adapter.failure_code == "weights_malformed" and len(adapter.failure_message) < 1000


# Other PEFT types ----------------------------------------------------------------------------------------------------


def test_the_table_is_what_the_installed_peft_says() -> None:
    assert Path(peft_types.__file__).parents[1].joinpath("formats/peft_types.py").read_text() == peft_types.document()


def test_a_type_that_peft_converts(registry: Path) -> None:
    make.adapter(registry / "one", peft_type=sorted(CONVERTIBLE)[0])
    make.adapter(registry / "two", peft_type="PREFIX_TUNING")
    assert "save_as_lora" in scanned().failure_message
    assert "soft prompts" in LoraAdapter.objects.get(name="two").failure_message


# API and page --------------------------------------------------------------------------------------------------------


def test_the_api_shows_the_changes_and_carries_them_out(registry: Path, operator: Any, person: Any) -> None:
    foreign.torchtune(registry / "one", make.lora_tensors(), make.config())
    adapter = scanned()
    url = f"/api/lora/models/{adapter.pk}"
    client, other = Client(), Client()
    client.force_login(operator)
    other.force_login(person)
    told = client.get(url).json()
    assert told["failure"]["code"] == "repairable" and "torchtune" in told["failure"]["message"]
    offer = told["repair"]
    assert offer["state"] == "offered" and [reason["code"] for reason in offer["reasons"]] == ["format_torchtune"]
    page = client.get(f"{url}/repair?page_size=3").json()
    assert page["count"] == offer["changes"] == 8 and page["next"] and page["repair"] == offer
    every = client.get(f"{url}/repair").json()["results"]
    old, new = "layers.1.attn.q_proj.lora_b.weight", "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    assert {"kind": "reordered", "old": old, "new": new} in every
    assert {change["kind"] for change in every} == {"renamed", "reordered"}
    assert other.get(f"{url}/repair").status_code == other.post(f"{url}/repair").status_code == 403
    text = client.get(f"/models/{adapter.pk}").content.decode()
    assert offer["plan"] in text and old in text and "repair-button" in text

    wrong = client.post(f"{url}/repair", {"plan": "0" * 64}, content_type="application/json")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "repair_changed")
    done = client.post(f"{url}/repair", {"plan": offer["plan"]}, content_type="application/json")
    assert (done.status_code, done.json()["status"]) == (200, "active")
    assert client.get(url).json()["repair"]["state"] == "serves"
    text = client.get(f"/models/{adapter.pk}").content.decode()
    assert "repair-serves" in text and "repair-button" not in text
    assert 'data-testid="repair"' not in other.get(f"/models/{adapter.pk}").content.decode()


def test_nothing_to_repair(registry: Path, operator: Any) -> None:
    make.adapter(registry / "one")
    client = Client()
    client.force_login(operator)
    url = f"/api/lora/models/{scanned().pk}"
    page = client.get(f"{url}/repair").json()
    assert client.get(url).json()["repair"] is page["repair"] is None and page["results"] == []
    answer = client.post(f"{url}/repair", {}, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "nothing_to_repair")


def test_the_page_shows_what_is_kept_of_a_newer_config(registry: Path, operator: Any) -> None:
    make.adapter(registry / "one", a_new_key={"x": "y" * 10_000})
    client = Client()
    client.force_login(operator)
    text = client.get(f"/models/{scanned().pk}").content.decode()
    assert "unknown-keys" in text and "a_new_key" in text and "y" * 300 not in text
