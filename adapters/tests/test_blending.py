"""`/api/lora/blends`: a blend written as an adapter of its own: exactly, or of a chosen rank with the error told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.test import Client

from adapters import services
from adapters.blending import planning
from adapters.formats.safetensors import read_header
from adapters.models import LoraAdapter, Status
from adapters.store import entry
from adapters.tests import layouts as make
from adapters.uploads.arriving import ARRIVING

pytestmark = pytest.mark.django_db
URL = "/api/lora/blends"
WEIGHTS = {"wide": 0.75, "narrow": -1.5}


@pytest.fixture
def members(uploads: Path, registry: Path, operator: Any) -> dict[str, LoraAdapter]:
    """Of other ranks, types, scalings and layers; one with a chat template of its own."""
    wide = make.adapter(registry / "wide", make.lora_tensors(6, dtype="BF16", seed=1), r=6, use_rslora=True)
    (wide / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    make.write_json(wide / "generation_config.json", {"temperature": 0.5, "eos_token_id": 7})
    narrow = make.lora_tensors(2, ("q_proj", "down_proj"), dtype="F16", seed=2)
    pattern = {r"layers\.1\..*": 3}
    make.adapter(registry / "narrow", narrow, r=2, target_modules=["q_proj", "down_proj"], alpha_pattern=pattern)
    services.scan(None)
    return {name: services.activate(LoraAdapter.objects.get(name=name).pk, operator) for name in WEIGHTS}


def post(op: Client, members: dict[str, LoraAdapter], **more: Any) -> Any:
    adapters = [{"id": members[name].pk, "weight": weight} for name, weight in WEIGHTS.items()]
    return op.post(URL, {"name": "mix", "adapters": adapters, **more}, content_type="application/json")


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    file = folder / "adapter_model.safetensors"
    found = {}
    with file.open("rb") as opened:
        header = read_header(opened, file.stat().st_size)
        for name, tensor in header.tensors.items():
            opened.seek(header.data_start + tensor.start)
            raw = opened.read(tensor.end - tensor.start)
            kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[tensor.dtype]
            values = np.frombuffer(raw, kind)
            values = (values.astype("<u4") << 16).view("<f4") if tensor.dtype == "BF16" else values.astype("<f4")
            found[name] = values.reshape(tensor.shape)
    return found


def updates_of(folder: Path, weight: float = 1.0) -> dict[str, np.ndarray]:
    """module -> weight · scaling · B A, in fp64."""
    config, tensors = json.loads((folder / "adapter_config.json").read_text()), tensors_of(folder)
    found = {}
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b, rank = tensors[f"{module}.lora_B.weight"], len(a)
            alpha = 3 if ".layers.1." in name and r"layers\.1\..*" in config["alpha_pattern"] else 8
            if config["r"] == config["lora_alpha"]:  # the blend's own
                alpha = rank
            scaling = alpha / np.sqrt(rank) if config["use_rslora"] else alpha / rank
            found[module] = weight * scaling * (b.astype("f8") @ a.astype("f8"))
    return found


def wanted(members: dict[str, LoraAdapter]) -> dict[str, np.ndarray]:
    total: dict[str, np.ndarray] = {}
    for name, weight in WEIGHTS.items():
        for module, update in updates_of(entry(members[name].digest), weight).items():
            total[module] = total.get(module, 0) + update
    return total


def test_ranks_side_by_side_are_exact(
    uploads: Path, op: Client, operator: Any, members: dict[str, LoraAdapter]
) -> None:
    done = post(op, members)
    assert done.status_code == 201, done.content
    body = done.json()
    assert (body["folder"], body["method"], body["rank"], body["error"]) == (
        f"{operator.pk}/mix",
        "concatenate",
        8,
        None,
    )
    folder = uploads / body["folder"]
    found = updates_of(folder)
    for module, update in wanted(members).items():
        np.testing.assert_allclose(found.pop(module), update, rtol=1e-5, atol=1e-7)
    assert not found
    recipe = json.loads((folder / "recipe.json").read_text())
    assert [(one["digest"], one["weight"]) for one in recipe["adapters"]] == [
        (members[name].digest, weight) for name, weight in WEIGHTS.items()
    ]
    assert os.listdir(uploads / ARRIVING) == []
    # It goes the way of every adapter, prompts as the first member has them.
    assert body["scanned"] and body["adapter"]["status"] == "discovered" and "0.75 × wide" in body["adapter"]["notes"]
    served = services.activate(body["adapter"]["id"], operator)
    assert (served.status, served.rank) == (
        Status.ACTIVE,
        json.loads((folder / "adapter_config.json").read_text())["r"],
    )
    assert served.prompting["sha256"] == members["wide"].prompting["sha256"] != ""


def test_a_smaller_rank_is_the_nearest_and_tells_its_error(
    uploads: Path, op: Client, operator: Any, members: dict[str, LoraAdapter]
) -> None:
    body = post(op, members, method="svd", rank=3).json()
    found, exact = updates_of(uploads / body["folder"]), wanted(members)
    assert body["rank"] == 3
    errors, left_out, whole = {}, 0.0, 0.0
    for module, update in exact.items():
        s = np.linalg.svd(update, compute_uv=False)
        apart = np.linalg.norm(found[module] - update)
        assert apart == pytest.approx(np.sqrt(np.sum(s[3:] ** 2)), rel=1e-3, abs=1e-6)
        errors[module] = apart / np.linalg.norm(update)
        left_out, whole = left_out + float(apart**2), whole + float(np.sum(s**2))
    assert body["error"]["overall"] == pytest.approx(np.sqrt(left_out / whole), rel=1e-3)
    assert body["error"]["worst"] == pytest.approx(max(errors.values()), rel=1e-3)
    assert f"base_model.model.{body['error']['layer']}" == max(errors, key=lambda module: errors[module])
    assert json.loads((uploads / body["folder"] / "recipe.json").read_text())["error"] == body["error"]
    assert services.activate(body["adapter"]["id"], operator).status == Status.ACTIVE


@pytest.mark.parametrize(
    ("changes", "status", "code", "param"),
    [
        ({"name": " "}, 400, "empty", "name"),
        ({"adapters": []}, 400, "empty", "adapters"),
        ({"adapters": [{"id": 999}]}, 409, "adapter_inactive", "adapters.0.id"),
        ({"adapters": [{"id": 1}, {"id": 1}]}, 400, "duplicate", "adapters"),
        ({"adapters": [{"id": 1, "weight": 0}]}, 400, "conflict", "adapters"),
        ({"adapters": [{"id": 1, "weight": -2.5}]}, 400, "out_of_range", "adapters.0.weight"),
        ({"method": "svd"}, 400, "conflict", "rank"),
        ({"rank": 4}, 400, "conflict", "rank"),
        ({"method": "svd", "rank": 513}, 400, "out_of_range", "rank"),
    ],
    ids=str,
)
def test_refusals(
    uploads: Path, op: Client, members: dict[str, LoraAdapter], changes: Any, status: int, code: str, param: str
) -> None:
    answer = post(op, members, **changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)


def test_what_cannot_be_added_up_is_refused_by_name(
    uploads: Path, registry: Path, op: Client, operator: Any, members: dict[str, LoraAdapter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tensors = make.lora_tensors(seed=5)
    for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
        shape = (tensors[name.replace("_A", "_B")][1][0],)
        tensors[name.replace("lora_A.weight", "lora_magnitude_vector")] = ("F32", shape, make.values(shape, fill=1.0))
    make.adapter(registry / "dora", tensors, use_dora=True)
    services.scan(None)
    dora = services.activate(LoraAdapter.objects.get(name="dora").pk, operator)
    error = post(op, members, adapters=[{"id": members["wide"].pk}, {"id": dora.pk}]).json()["error"]
    assert error["code"] == "blend_unsupported" and "dora" in error["message"] and "DoRA" in error["message"]
    monkeypatch.setattr(planning, "MAX_RANK", 7)
    assert post(op, members).json()["error"]["code"] == "blend_rank_exceeded"
    assert post(op, members, method="svd", rank=7).status_code == 201


def test_a_member_with_tokens_of_its_own_is_refused_by_name(
    uploads: Path, op: Client, members: dict[str, LoraAdapter]
) -> None:
    LoraAdapter.objects.filter(pk=members["narrow"].pk).update(prompting={"added_tokens": 2})
    error = post(op, members).json()["error"]
    assert error["code"] == "blend_unsupported" and "narrow" in error["message"] and "added_tokens" in error["message"]


def test_a_member_whose_copy_is_damaged_is_no_part(uploads: Path, op: Client, members: dict[str, LoraAdapter]) -> None:
    file = entry(members["narrow"].digest) / "adapter_model.safetensors"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    error = post(op, members).json()["error"]
    assert error["code"] == "store_damaged" and "narrow" in error["message"]
    assert not list(uploads.rglob("*.safetensors"))
