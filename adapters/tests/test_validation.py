"""Every refusal of the adapter table, by its code, at the scan or at the activation."""

from __future__ import annotations

import json
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from adapters import services
from adapters.failures import FAILURES
from adapters.formats import config as adapter_config
from adapters.models import LoraAdapter, Status
from adapters.tests import layouts as make

pytestmark = pytest.mark.django_db

PREFIX = "base_model.model."
TIMES = 30  # what the scan of one file may cost this process, in scans of an ordinary adapter
_ordinary: list[float] = []  # measured once in a process


def scanned(name: str = "one") -> LoraAdapter:
    services.scan(None)
    return LoraAdapter.objects.get(name=name)


@pytest.fixture
def ordinary(registry: Path) -> float:
    """Seconds of this process's time for the scan of an ordinary adapter."""
    if not _ordinary:
        for name in ("warm", "ordinary"):
            make.adapter(registry / name)
            started = time.process_time()
            scanned(name)
        _ordinary.append(time.process_time() - started)
        for name in ("warm", "ordinary"):
            shutil.rmtree(registry / name)
        LoraAdapter.objects.all().delete()
    return _ordinary[0]


def assert_refused(adapter: LoraAdapter, code: str) -> None:
    assert code in FAILURES
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == code
    adapter.refresh_from_db()
    assert adapter.digest == ""
    message = adapter.failure_message
    assert "?" not in message and "%(" not in message


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "IA3"}, "unsupported_peft_type"),
    ({"peft_type": "PROMPT_TUNING"}, "unsupported_peft_type"),
    ({"peft_type": None}, "config_invalid"),
    ({"task_type": "SEQ_CLS"}, "unsupported_task_type"),
    ({"task_type": 5}, "config_invalid"),
    ({"bias": ""}, "config_invalid"),
    ({"init_lora_weights": ""}, "config_invalid"),
    ({"use_dora": True}, "tensors_missing"),  # the file says otherwise
    ({"modules_to_save": ["embed_tokens", "lm_head"]}, "modules_to_save_unsupported"),
    ({"bias": "some"}, "bias_unsupported"),
    ({"lora_bias": True}, "tensors_missing"),
    ({"lora_bias": "yes"}, "config_invalid"),
    ({"trainable_token_indices": [1, 2]}, "tensors_missing"),
    ({"trainable_token_indices": {"embed_tokens": [1, -2]}}, "config_invalid"),
    ({"trainable_token_indices": 7}, "config_invalid"),
    ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication_unsupported"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_changes_base"),
    ({"init_lora_weights": "loftq"}, "init_changes_base"),
    ({"init_lora_weights": "olora"}, "init_changes_base"),
    ({"alora_invocation_tokens": [1]}, "variant_unsupported"),
    ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "parameters_unsupported"),
    ({"use_qalora": True}, "variant_unsupported"),
    ({"r": 2_000_000}, "config_invalid"),
    ({"r": "4"}, "config_invalid"),
    ({"r": True}, "config_invalid"),
    ({"r": 0}, "config_invalid"),
    ({"lora_alpha": 1e308}, "config_invalid"),
    ({"lora_alpha": "8"}, "config_invalid"),
    ({"use_rslora": "yes"}, "config_invalid"),
    ({"target_modules": None}, "config_invalid"),
    ({"target_modules": "((("}, "config_invalid"),
    ({"target_modules": "(?a)(?u)x"}, "config_invalid"),
    ({"target_modules": "(?<=a+)b"}, "config_invalid"),
    # Without end where an engine backtracks. One that does not finds that they match nothing.
    ({"target_modules": "(?:.{1,16}){1,16}!"}, "tensors_untargeted"),
    ({"target_modules": r"([\w.]+)+!"}, "tensors_untargeted"),
    ({"target_modules": r"(?=([\w.]+)+!).*"}, "pattern_too_slow"),
    ({"exclude_modules": r"(?=([\w.]+)+!).*"}, "pattern_too_slow"),
    ({"rank_pattern": {"(a|aa)+b": 4}}, "tensors_ok"),
    ({"rank_pattern": {r"(?=([\w.]+)+!)x": 4}}, "pattern_too_slow"),
    ({"rank_pattern": {"(": 4}}, "config_invalid"),
    ({"alpha_pattern": {r"(?=([\w.]+)+!)x": 4}}, "pattern_too_slow"),
    ({"alpha_pattern": {"(": 4}}, "config_invalid"),
    ({"layers_to_transform": [0], "layers_pattern": r"(?=([\w.]+)+!)x"}, "pattern_too_slow"),
    ({"layers_to_transform": [0], "layers_pattern": "("}, "config_invalid"),
    ({"layers_to_transform": [0], "layers_pattern": "model|h"}, "tensors_untargeted"),
    ({"layers_to_transform": [0], "layers_pattern": "layers"}, "tensors_untargeted"),
    ({"layers_to_transform": [-1]}, "config_invalid"),
    ({"use_unheard_of": True}, "config_unknown_key"),
    ({"unheard_config": {"x": 1}}, "config_unknown_key"),
    ({"enable_lora": [True, False, True]}, "config_unknown_key"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out_mismatch"),
    ({"r": 8}, "rank_mismatch"),
    ({"target_modules": ["q_proj"]}, "tensors_untargeted"),
    ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "tensors_missing"),
    ({"base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}, "base_not_found"),
    ({"base_model_name_or_path": None}, "base_not_recorded"),
]


@pytest.mark.parametrize(("changes", "code"), CONFIGS, ids=lambda value: str(value)[:60])
def test_config(registry: Path, ordinary: float, changes: dict[str, Any], code: str) -> None:
    make.adapter(registry / "one", **changes)
    started = time.process_time()
    adapter = scanned()
    assert time.process_time() - started < TIMES * ordinary
    if code == "tensors_ok":
        assert adapter.status == Status.DISCOVERED
        return
    assert (adapter.status, adapter.failure_code) == (Status.FAILED, code)
    assert_refused(adapter, code)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 4}},
        {"alpha_pattern": {"q_proj": 16}},
        {"target_modules": r".*\.(q_proj|v_proj)"},
        {"target_modules": r"^(?!.*vision).*self_attn\.(?:q_proj|v_proj)$"},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"layers_to_transform": [0, 1], "layers_pattern": ["h", "(?!vision)layers"]},
        {"layers_to_transform": [1, 0]},
        {"init_lora_weights": "gaussian"},
        {"lora_alpha": 8.5},
        {"task_type": None},
        {"task_type": ""},
        {"task_type": " "},
        {"something_new": None, "another": []},
        {"base_model_name_or_path": f"/home/somebody/models/{make.BASE_NAME}/"},
        {"base_model_name_or_path": f"C:\\models\\{make.BASE_NAME}"},
        {"base_model_name_or_path": f"/home/trainer/.cache/hub/models--tiny--{make.BASE_NAME}/snapshots/0123abc"},
    ],
    ids=str,
)
def test_served(registry: Path, changes: dict[str, Any]) -> None:
    make.adapter(registry / "one", **changes)
    adapter = scanned()
    assert adapter.failure_code == ""
    adapter = services.activate(adapter.pk, None)
    assert adapter.status == Status.ACTIVE
    assert (adapter.store_path / "adapter_model.safetensors").is_file()


def test_the_placeholders_of_zero_3_are_told_as_such(registry: Path) -> None:
    whole = make.lora_tensors()
    empty: make.Tensors = {name: (dtype, (0,), b"") for name, (dtype, _shape, _data) in whole.items()}
    some = whole | dict(list(empty.items())[:1])
    make.adapter(registry / "one", empty, base_model_name_or_path="org/unknown")
    make.adapter(registry / "two", some)
    services.scan(None)
    for adapter in LoraAdapter.objects.all():
        assert adapter.failure_code == "weights_empty" and "ZeRO" in adapter.failure_message
        assert_refused(adapter, "weights_empty")


MLX = {"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0}, "num_layers": 16, "model": "org/x"}


@pytest.mark.parametrize(
    ("config", "file", "advice"),
    [
        (MLX, "adapters.safetensors", "mlx_lm.fuse"),
        (make.config(), "lora.gguf", "save_pretrained"),
        (make.config(), "pytorch_lora_weights.safetensors", "save_pretrained"),
    ],
)
def test_weights_of_another_format_are_told_as_such(
    registry: Path, config: dict[str, Any], file: str, advice: str
) -> None:
    make.write_json(registry / "one" / "adapter_config.json", config)
    (registry / "one" / file).write_bytes(b"weights")
    (registry / "one" / "optimizer.pt").write_bytes(b"state")
    adapter = scanned()
    assert adapter.failure_code == "other_format"
    assert file in adapter.failure_message and advice in adapter.failure_message
    assert "wait" not in adapter.failure_message
    assert_refused(adapter, "other_format")
    (registry / "one" / file).unlink()
    if config is not MLX:
        assert scanned().failure_code == "weights_missing"


def test_rank_pattern_is_followed(registry: Path) -> None:
    tensors = make.lora_tensors()
    stem = PREFIX + make.module(0, "q_proj")
    for kind, shape in (("A", (2, make.HIDDEN)), ("B", (make.HIDDEN, 2))):
        tensors[f"{stem}.lora_{kind}.weight"] = ("F32", shape, make.values(shape))
    make.adapter(registry / "one", tensors, rank_pattern={"layers.0.self_attn.q_proj": 2})
    make.adapter(registry / "two", tensors)
    assert scanned().failure_code == ""
    assert LoraAdapter.objects.get(name="two").failure_code == "rank_mismatch"


def tensors_with(name: str, shape: tuple[int, ...] = (2, 2), dtype: str = "F32") -> make.Tensors:
    size = {"F32": 4, "F16": 2, "F64": 8, "I8": 1}[dtype]
    data = bytes(size * int(shape[0] * shape[1] if len(shape) == 2 else shape[0]))
    return make.lora_tensors() | {name: (dtype, shape, data)}


Q = PREFIX + make.module(0, "q_proj")
WEIGHTS: list[tuple[make.Tensors, str]] = [
    (tensors_with(PREFIX + "model.embed_tokens.weight", (70, 16)), "vocabulary_resized"),
    (tensors_with(PREFIX + "lm_head.weight", (70, 16)), "vocabulary_resized"),
    (tensors_with(PREFIX + "model.norm.weight", (16,)), "modules_to_save_unsupported"),
    (tensors_with(PREFIX + make.module(0, "q_proj") + ".lora_magnitude_vector", (16,)), "config_invalid"),
    (tensors_with(PREFIX + "model.embed_tokens.lora_embedding_A", (4, 64)), "tensors_missing"),
    (tensors_with(PREFIX + "model.embed_tokens.lora_embedding_A", (4, 64))
     | tensors_with(PREFIX + "model.embed_tokens.lora_embedding_B", (16, 4)), "tensors_untargeted"),
    (tensors_with(PREFIX + "model.embed_tokens.token_adapter.trainable_tokens_delta", (2, 16)), "config_invalid"),
    (tensors_with(PREFIX + make.module(0, "q_proj") + ".lora_B.bias", (16,)), "config_invalid"),
    (tensors_with(PREFIX + make.module(0, "q_proj") + ".base_layer.bias", (16,)), "bias_unsupported"),
    (tensors_with("something.else", (4,)), "tensors_mismatch"),
    (tensors_with(PREFIX + make.module(0, "o_proj") + ".lora_A.weight", (4, 16)), "tensors_missing"),
    (tensors_with(PREFIX + "model.layers.7.self_attn.q_proj.lora_A.weight", (4, 16))
     | tensors_with(PREFIX + "model.layers.7.self_attn.q_proj.lora_B.weight", (16, 4)), "tensors_mismatch"),
    (make.lora_tensors(layers=3), "tensors_mismatch"),
    (make.lora_tensors(hidden=32), "base_mismatch"),
    (tensors_with(Q + ".lora_A.weight", (4, make.HIDDEN + 1)), "base_mismatch"),
    (tensors_with(Q + ".lora_B.weight", (make.HIDDEN + 1, 4)), "base_mismatch"),
    (make.lora_tensors(targets=("q_proj",)), "tensors_missing"),
    (make.lora_tensors(targets=("q_proj", "v_proj", "o_proj")), "tensors_untargeted"),
    ({}, "weights_malformed"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "code"), WEIGHTS, ids=lambda value: value if isinstance(value, str) else "")
def test_weights(registry: Path, tensors: make.Tensors, code: str) -> None:
    make.adapter(registry / "one", tensors)
    adapter = scanned()
    assert (adapter.status, adapter.failure_code) == (Status.FAILED, code)
    assert_refused(adapter, code)


WITH_PARTS: list[tuple[dict[str, Any], str, tuple[int, ...], str]] = [
    ({"use_dora": True}, ".lora_magnitude_vector", (1,), ""),
    ({"use_dora": True}, ".lora_magnitude_vector", (-1,), "base_mismatch"),
    ({"lora_bias": True}, ".lora_B.bias", (1,), ""),
    ({"lora_bias": True}, ".lora_B.bias", (-1,), "base_mismatch"),
]


@pytest.mark.parametrize(("config", "end", "size", "code"), WITH_PARTS)
def test_what_a_config_says_of_pairs_is_there_for_each(
    registry: Path, config: dict[str, Any], end: str, size: tuple[int, ...], code: str
) -> None:
    tensors = make.lora_tensors()
    for name, (_, (out, _), _) in list(tensors.items()):
        if name.endswith(".lora_B.weight"):
            own = (out + size[0] - 1,)
            tensors[name.removesuffix(".lora_B.weight") + end] = ("F32", own, make.values(own))
    make.adapter(registry / "one", tensors, **config)
    assert scanned().failure_code == code


EMBEDDING = PREFIX + "model.embed_tokens"


@pytest.mark.parametrize(
    ("indices", "rows", "code"), [([1, 63], 2, ""), ({"embed_tokens": [1, 63]}, 2, ""), ([1, 64], 2, "base_mismatch"),
                                  ([1], 2, "base_mismatch")]
)  # fmt: skip
def test_rows_of_single_tokens(registry: Path, indices: Any, rows: int, code: str) -> None:
    name, shape = EMBEDDING + ".token_adapter.trainable_tokens_delta", (rows, make.HIDDEN)
    tensors = make.lora_tensors() | {name: ("F32", shape, make.values(shape))}
    make.adapter(registry / "one", tensors, trainable_token_indices=indices)
    assert scanned().failure_code == code


@pytest.mark.parametrize(("rows", "code"), [(make.VOCAB, ""), (make.VOCAB + 1, "base_mismatch")])
def test_matrices_of_an_embedding(registry: Path, rows: int, code: str) -> None:
    pair = {"A": (3, rows), "B": (make.HIDDEN, 3)}
    tensors = make.lora_tensors() | {
        f"{EMBEDDING}.lora_embedding_{side}": ("F32", shape, make.values(shape)) for side, shape in pair.items()
    }
    targets = ["q_proj", "v_proj", "embed_tokens"]
    make.adapter(registry / "one", tensors, target_modules=targets, rank_pattern={"embed_tokens": 3})
    assert scanned().failure_code == code


def test_other_dtype(registry: Path) -> None:
    tensors = {
        name: ("I8", shape, data[: shape[0] * shape[1]]) for name, (_, shape, data) in make.lora_tensors().items()
    }
    make.adapter(registry / "one", tensors)
    assert scanned().failure_code == "dtype_unsupported"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_values_that_are_not_finite(registry: Path, dtype: str, bad: float) -> None:
    tensors = make.lora_tensors(dtype=dtype)
    last = list(tensors)[-1]
    kind, shape, data = tensors[last]
    tensors[last] = (kind, shape, data[: -len(data) // 4] + make.values(shape, dtype, fill=bad)[-len(data) // 4 :])
    tensors[last] = (kind, shape, tensors[last][2][: len(data)])
    make.adapter(registry / "one", tensors)
    adapter = scanned()
    assert adapter.status == Status.DISCOVERED  # the scan reads headers alone
    assert_refused(adapter, "weights_nonfinite")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("zero", [0.0, -0.0], ids=str)
def test_no_effect(registry: Path, dtype: str, zero: float) -> None:
    make.adapter(registry / "one", make.lora_tensors(dtype=dtype, b_fill=zero))
    adapter = scanned()
    assert adapter.status == Status.DISCOVERED
    assert_refused(adapter, "no_effect")
    assert adapter.status == Status.FAILED
    services.scan(None)  # the next scan does not forget it
    adapter.refresh_from_db()
    assert adapter.failure_code == "no_effect"


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -1000], ids=str)
def test_truncated(registry: Path, keep: int) -> None:
    folder = make.adapter(registry / "one")
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    adapter = scanned()
    assert (adapter.status, adapter.failure_code) == (Status.FAILED, "weights_truncated")
    assert_refused(adapter, "weights_truncated")


def test_more_bytes_than_tensors(registry: Path) -> None:
    folder = make.adapter(registry / "one")
    with open(folder / "adapter_model.safetensors", "ab") as file:
        file.write(b"x")
    assert scanned().failure_code == "weights_malformed"


@pytest.mark.parametrize("length", [2**20 + 1, 80 * 2**20, 2**63, 2**64 - 1])
def test_header_claims(registry: Path, ordinary: float, length: int) -> None:
    folder = make.adapter(registry / "one")
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", length) + b"{" + b" " * 1000)
    started = time.process_time()
    assert scanned().failure_code == "header_too_large"
    assert time.process_time() - started < TIMES * ordinary


def test_missing_parts(registry: Path) -> None:
    make.write_json(registry / "no-weights" / "adapter_config.json", make.config())
    folder = make.adapter(registry / "no-config")
    (folder / "adapter_config.json").unlink()
    services.scan(None)
    assert LoraAdapter.objects.get(name="no-weights").failure_code == "weights_missing"
    adapter = LoraAdapter.objects.get(name="no-config")
    assert (adapter.status, adapter.incomplete) == (Status.DISCOVERED, True)
    assert_refused_incomplete(adapter)


def assert_refused_incomplete(adapter: LoraAdapter) -> None:
    with pytest.raises(services.ActivationFailed) as caught:
        services.activate(adapter.pk, None)
    assert caught.value.code == "incomplete"
    adapter.refresh_from_db()
    assert (adapter.status, adapter.incomplete) == (Status.DISCOVERED, True)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"r": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "\xff\xfe", "{}" + " " * 2**20]
)
def test_config_that_is_not_json(registry: Path, text: str) -> None:
    folder = make.adapter(registry / "one")
    (folder / "adapter_config.json").write_bytes(text.encode("latin-1"))
    adapter = scanned()
    assert adapter.failure_code in {"config_malformed", "config_too_large"}


def test_young_files_are_incomplete(registry: Path, settings: Any) -> None:
    settings.SCAN_SETTLE_SECONDS = 60.0
    make.adapter(registry / "one")
    adapter = scanned()
    assert (adapter.status, adapter.incomplete, adapter.failure_code) == (Status.DISCOVERED, True, "")
    assert_refused_incomplete(adapter)
    make.age(registry / "one")
    assert services.scan(None).incomplete == 0
    adapter.refresh_from_db()
    assert not adapter.incomplete
    services.activate(adapter.pk, None)


def test_a_truncated_file_that_still_grows_is_incomplete(registry: Path, settings: Any) -> None:
    settings.SCAN_SETTLE_SECONDS = 60.0
    folder = make.adapter(registry / "one")
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    adapter = scanned()
    assert (adapter.status, adapter.incomplete) == (Status.DISCOVERED, True)
    make.age(folder)
    services.scan(None)
    adapter.refresh_from_db()
    assert (adapter.status, adapter.failure_code, adapter.incomplete) == (Status.FAILED, "weights_truncated", False)


def test_gpt2_layers_are_transposed(registry: Path, tmp_path: Path) -> None:
    base = tmp_path / "models" / "tiny-gpt2"
    make.write_json(base / "config.json", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    make.write_json(base / "tokenizer.json", {})
    shapes = {"wte.weight": (64, 16), "h.0.attn.c_attn.weight": (16, 48), "h.0.mlp.c_fc.weight": (16, 64)}
    (base / "model.safetensors").write_bytes(make.pack({n: ("F32", s, make.values(s)) for n, s in shapes.items()}))
    stem = "base_model.model.transformer.h.0.attn.c_attn"
    tensors: make.Tensors = {
        f"{stem}.lora_A.weight": ("F32", (4, 16), make.values((4, 16))),
        f"{stem}.lora_B.weight": ("F32", (48, 4), make.values((48, 4))),
    }
    changes: dict[str, Any] = {
        "base_model_name_or_path": "tiny-gpt2",
        "target_modules": ["c_attn"],
        "fan_in_fan_out": True,
    }
    make.adapter(registry / "one", tensors, **changes)
    adapter = scanned()
    assert adapter.failure_code == ""
    assert services.activate(adapter.pk, None).status == Status.ACTIVE


def test_sharded_base(registry: Path, tmp_path: Path) -> None:
    make.base_model(tmp_path / "models" / "Sharded", shards=3)
    make.adapter(registry / "one", base_model_name_or_path="org/Sharded")
    assert scanned().failure_code == ""


def test_details_of_a_refusal_stay_short(registry: Path) -> None:
    changes: dict[str, Any] = {"use_" + "x" * 100_000: 1}
    make.adapter(registry / "one", **changes)
    adapter = scanned()
    assert adapter.failure_code == "config_unknown_key"
    assert len(json.dumps(adapter.failure_details)) < 1000


def test_texts_of_a_config_are_cleaned() -> None:
    raw = {
        "base_model_name_or_path": "a\x1b[31m\n" + "b" * 1000,
        "peft_type": "LO\x00RA",
        "target_modules": ["q\u202e"],
    }
    seen = adapter_config.glance(raw)
    assert seen.base_name.isprintable() and len(seen.base_name) == 512
    assert seen.peft_type == "LO\ufffdRA" and seen.target_modules == ("q\ufffd",)


def test_a_refused_adapter_has_its_base_where_that_is_there(registry: Path) -> None:
    make.adapter(registry / "one", peft_type="LOHA")
    adapter = scanned()
    assert (adapter.failure_code, adapter.base and adapter.base.name) == ("unsupported_peft_type", make.BASE_NAME)
