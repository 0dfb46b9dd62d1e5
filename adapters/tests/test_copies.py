"""Tensors beside the LoRA matrices are judged by what they hold: copies of the base's own change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import services, store
from adapters.bases import shapes
from adapters.formats.safetensors import read_header
from adapters.lifecycle.mending import Outcome, mend
from adapters.models import LoraAdapter, Status
from adapters.tests import layouts as make
from adapters.validation import copies

pytestmark = pytest.mark.django_db

PREFIX = "base_model.model."
SHAPE = (make.VOCAB, make.HIDDEN)
EMBEDDINGS = make.values(SHAPE, "BF16")  # as the base has them
WIDE = (np.frombuffer(EMBEDDINGS, "<u2").astype("<u4") << 16).view("<f4").tobytes()
ONE_BIT_OFF = WIDE[:-4] + bytes([WIDE[-4] ^ 1]) + WIDE[-3:]
HEAD = ("lm_head", "q_proj", "v_proj")  # PEFT saves the layer along where lm_head is a target


def with_head(copy: dict[str, tuple[str, tuple[int, ...], bytes]]) -> make.Tensors:
    lora = {
        f"{PREFIX}lm_head.lora_A.weight": ("F32", (4, make.HIDDEN), make.values((4, make.HIDDEN), seed=7)),
        f"{PREFIX}lm_head.lora_B.weight": ("F32", (make.VOCAB, 4), make.values((make.VOCAB, 4), seed=8)),
    }
    return {**copy, **make.lora_tensors(), **lora}


COPIES: list[tuple[str, str, bytes]] = [
    ("lm_head.base_layer.weight", "BF16", EMBEDDINGS),
    ("lm_head.base_layer.weight", "F32", WIDE),  # trained in fp32
    ("lm_head.weight", "BF16", EMBEDDINGS),
    ("model.embed_tokens.weight", "F32", WIDE),
    ("model.embed_tokens.base_layer.weight", "BF16", EMBEDDINGS),
]


@pytest.mark.parametrize(("name", "dtype", "data"), COPIES, ids=lambda value: str(value)[:40])
def test_a_copy_of_the_bases_own_tensor_is_no_reason_to_refuse(
    registry: Path, name: str, dtype: str, data: bytes
) -> None:
    """What is served holds the LoRA matrices alone, and stays the same content at the next look."""
    folder = make.adapter(registry / "one", with_head({PREFIX + name: (dtype, SHAPE, data)}), target_modules=list(HEAD))
    services.scan(None)
    adapter = services.activate(LoraAdapter.objects.get().pk, None)
    assert (adapter.status, adapter.rank) == (Status.ACTIVE, 4)
    stored = store.entry(adapter.digest) / "adapter_model.safetensors"
    with open(stored, "rb") as file:
        header = read_header(file, stored.stat().st_size)
        assert set(header.tensors) == set(with_head({}))
        for tensor, (_, _, wanted) in with_head({}).items():
            file.seek(header.data_start + header.tensors[tensor].start)
            assert file.read(len(wanted)) == wanted
    assert store.digest_of((str(registry),), str(folder)) == adapter.digest
    (folder / "README.md").write_text("another card")
    services.scan(None)
    adapter.refresh_from_db()
    assert not adapter.update_available
    stored.chmod(0o600)
    stored.write_bytes(b"damaged")
    assert mend(adapter.digest) is Outcome.MENDED


CHANGED: list[tuple[str, str, tuple[int, ...], bytes]] = [
    ("lm_head.base_layer.weight", "F32", SHAPE, ONE_BIT_OFF),
    ("model.embed_tokens.weight", "BF16", SHAPE, make.values(SHAPE, "BF16", 5)),
    ("model.layers.0.self_attn.q_proj.base_layer.weight", "BF16", (16, 16), make.values((16, 16), "BF16", 9)),
    ("model.layers.1.input_layernorm.weight", "F32", (16,), make.values((16,), "F32", 4)),
]


@pytest.mark.parametrize(("name", "dtype", "shape", "data"), CHANGED, ids=lambda value: str(value)[:40])
def test_a_tensor_that_differs_in_one_bit_is_served_with_the_matrices(
    registry: Path, name: str, dtype: str, shape: tuple[int, ...], data: bytes
) -> None:
    """And a copy of the base's own beside it stays behind; the content is the same at the next look."""
    same = {f"{PREFIX}model.layers.0.input_layernorm.weight": ("BF16", (16,), make.values((16,), "BF16"))}
    tensors = with_head({PREFIX + name: (dtype, shape, data)})
    folder = make.adapter(registry / "one", same | tensors, target_modules=list(HEAD))
    services.scan(None)
    adapter = services.activate(LoraAdapter.objects.get().pk, None)
    stored = store.entry(adapter.digest) / "adapter_model.safetensors"
    with open(stored, "rb") as file:
        header = read_header(file, stored.stat().st_size)
        assert set(header.tensors) == set(tensors)
        file.seek(header.data_start + header.tensors[PREFIX + name].start)
        assert file.read(len(data)) == data
    (folder / "README.md").write_text("another card")
    services.scan(None)
    adapter.refresh_from_db()
    assert not adapter.update_available and adapter.status == Status.ACTIVE
    stored.chmod(0o600)
    stored.write_bytes(b"damaged")
    assert mend(adapter.digest) is Outcome.MENDED


@pytest.mark.parametrize("data", [WIDE, ONE_BIT_OFF], ids=["same", "other"])
def test_saved_modules_are_judged_by_what_was_saved(registry: Path, data: bytes) -> None:
    tensors = {f"{PREFIX}lm_head.weight": ("F32", SHAPE, data)} | make.lora_tensors()
    make.adapter(registry / "one", tensors, modules_to_save=["lm_head"])
    services.scan(None)
    adapter = services.activate(LoraAdapter.objects.get().pk, None)
    assert (f"{PREFIX}lm_head.weight" in store.names(adapter.digest)) == (data != WIDE)


@pytest.mark.parametrize(
    ("name", "shape", "code"),
    [("model.embed_tokens.weight", (make.VOCAB + 1, make.HIDDEN), "vocabulary_resized"),
     ("model.norm.weight", (16,), "modules_to_save_unsupported"),
     ("model.layers.0.self_attn.q_proj.base_layer.bias", (16,), "bias_unsupported")],
)  # fmt: skip
def test_a_tensor_without_its_like_in_the_base_is_refused(
    registry: Path, name: str, shape: tuple[int, ...], code: str
) -> None:
    make.adapter(registry / "one", {PREFIX + name: ("F32", shape, make.values(shape))} | make.lora_tensors())
    services.scan(None)
    assert LoraAdapter.objects.get().failure_code == code


def test_a_copy_rounded_to_the_precision_of_training() -> None:
    """A base published in fp32 and trained in bf16: the copy is the base's own in that precision."""
    numbers = np.random.default_rng(3).standard_normal(1000).astype("<f4")
    torch: Any = pytest.importorskip("torch")
    for target, dtype in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        wanted = torch.from_numpy(numbers).to(dtype).view(torch.int16).numpy().tobytes()
        assert copies._cast(numbers, "F32", target).tobytes() == wanted


def test_no_number_of_a_copy_is_read_twice_nor_after_a_difference(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{PREFIX}model.embed_tokens.weight"
    norm = f"{PREFIX}model.layers.0.input_layernorm.weight"
    later = {norm: ("BF16", (16,), make.values((16,), "BF16"))}
    make.adapter(
        registry / "one", {name: ("BF16", SHAPE, make.values(SHAPE, "BF16", 5)), **later, **make.lora_tensors()}
    )
    reads: list[int] = []
    read = copies._read

    def counted(*args: Any) -> Any:
        reads.append(args[3])
        return read(*args)

    monkeypatch.setattr(copies, "_read", counted)
    services.scan(None)
    assert LoraAdapter.objects.get().failure_code == ""
    assert reads == [*[make.VOCAB * make.HIDDEN] * 2, 16, 16], "mine and the base's, once"


def test_a_bases_headers_are_read_again_only_when_its_files_change(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / make.BASE_NAME
    reads: list[int] = []
    read = shapes.read_header

    def counted(*args: Any) -> Any:
        reads.append(1)
        return read(*args)

    monkeypatch.setattr(shapes, "read_header", counted)
    root = (str(tmp_path / "models"),)
    first = shapes.find_tensors(root, str(folder))
    assert shapes.find_tensors(root, str(folder)) is first and len(reads) == 1
    make.base_model(folder, layers=1)
    assert len(shapes.find_tensors(root, str(folder))) < len(first)
