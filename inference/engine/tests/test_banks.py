"""Both LoRA banks against the formula, on shapes and mixes that a model of the tests would not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import launching
from inference.engine.config import EngineConfig
from inference.engine.errors import EngineError
from inference.engine.lora.bank import AdapterFile, AdapterPairs, Kind, LoraBank, Pair
from inference.engine.lora.segment_bank import SegmentBank
from inference.engine.lora.stacked_bank import StackedBank, finite
from inference.engine.model.hardware import Hardware
from inference.engine.model.loaded_base import native_kernels
from inference.engine.model.products import NativeProduct
from inference.engine.native import library

pytestmark = pytest.mark.usefixtures("two_threads")

LAYERS = 2
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernel() -> Any:
    found = library.native_library("")
    assert found is not None, "these tests need a C compiler (Debian package build-essential)"
    return found


def kernels(dtype: torch.dtype, **options: Any) -> library.Native | None:
    config = EngineConfig(device="cpu", **options)
    return native_kernels(config, Hardware(config), dtype)


def weights(name: str, kind: Kind, ranks: list[int], dtype: torch.dtype = torch.float32) -> AdapterFile:
    """The last layer has one rank less, where it can."""
    pairs = []
    for layer in range(LAYERS):
        for member, (rank, out) in enumerate(zip(ranks, kind.outs, strict=True)):
            own = rank - 1 if rank > 1 and layer == LAYERS - 1 else rank
            if own:
                a, b = torch.randn(own, kind.inputs).to(dtype), torch.randn(out, own).to(dtype)
                pairs.append(Pair(layer, member, a, b, 0.5 + member))
    return AdapterFile(name, name, max(ranks), {kind.key: AdapterPairs(tuple(ranks), pairs)})


def expected(kind: Kind, adapters: dict[str, AdapterFile], rows: list[str | None], x: Any, y: Any, layer: int) -> Any:
    out = y.clone().double()
    for index, digest in enumerate(rows):
        for pair in adapters[digest].kinds[kind.key].pairs if digest is not None else ():
            if pair.layer == layer:
                hidden = x[index].double() @ pair.a.double().t()
                out[index, kind.columns[pair.member]] += hidden @ pair.b.double().t() * pair.scale
    return out


def check(
    bank: LoraBank, kind: Kind, ranks: dict[str, list[int]], rows: list[str | None], dtype: torch.dtype = torch.float32
) -> None:
    made = {name: weights(name, kind, own, dtype) for name, own in ranks.items()}
    for item in made.values():
        bank.add(bank.pack(item))
    for layer in range(LAYERS):
        x, y = torch.randn(len(rows), kind.inputs), torch.randn(len(rows), kind.outputs)
        wanted = expected(kind, made, rows, x, y, layer)
        bank.prepare(rows, [len(rows) - 1])
        got = bank.apply(kind.key, layer, x, y.clone())
        assert torch.allclose(got.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        base = [index for index, name in enumerate(rows) if name is None]
        assert torch.equal(got[base], y[base])
    for name in made:
        bank.remove(name)


SHAPES = st.tuples(st.integers(1, 70), st.lists(st.integers(1, 150), min_size=1, max_size=3))
RANKS = {"a": 1, "b": 5, "c": 8, "d": 33}


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, rows=st.lists(st.sampled_from([None, *RANKS]), min_size=1, max_size=23), skip=st.booleans())
def test_each_row_gets_its_own_adapters_update(
    kernel: Any, shape: tuple[int, list[int]], rows: list[str | None], skip: bool
) -> None:
    inputs, outs = shape
    kind = Kind("k", tuple(f"m{i}" for i in range(len(outs))), inputs, tuple(outs), layers=LAYERS)
    ranks = {name: [0 if skip and m == 1 else rank + m for m in range(len(outs))] for name, rank in RANKS.items()}
    check(SegmentBank({"k": kind}, kernel), kind, ranks, rows)
    check(StackedBank({"k": kind}, CPU, torch.float32), kind, ranks, rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_adapters_of_other_types_are_widened(kernel: Any, dtype: torch.dtype) -> None:
    kind = Kind("k", ("m", "n"), 70, (100, 64), layers=LAYERS)
    for bank in (SegmentBank({"k": kind}, kernel), StackedBank({"k": kind}, CPU, torch.float32)):
        check(bank, kind, {"a": [3, 0], "b": [5, 9]}, ["a", None, "b", "a"], dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_of_two_bytes_is_read_as_it_is(kernel: Any, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    kind = Kind("k", ("m",), every.numel(), (1,), layers=1)
    found = AdapterPairs((1,), [Pair(0, 0, every[None], torch.ones(1, 1, dtype=dtype), 1.0)])
    packed = SegmentBank({"k": kind}, kernel).pack(AdapterFile("a", "a", 1, {"k": found})).kinds["k"]
    assert torch.equal(packed.a[0, 0], every.float())  # type: ignore[attr-defined]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_value_that_is_not_finite_is_found(
    kernel: Any, native: bool, dtype: torch.dtype, bad: float, side: str
) -> None:
    kind = Kind("k", ("m",), 70, (100,), layers=LAYERS)
    bank: LoraBank = SegmentBank({"k": kind}, kernel) if native else StackedBank({"k": kind}, CPU, torch.float32)
    read = weights("a", kind, [3], dtype)
    getattr(read.kinds["k"].pairs[1], side)[-1, -1] = bad
    with pytest.raises(EngineError) as refused:
        bank.pack(read)
    assert refused.value.code == "weights_nonfinite" and bank.bytes == 0


def test_more_threads_than_work_give_the_same(kernel: Any) -> None:
    kind = Kind("k", ("m",), 64, (64,), layers=LAYERS)
    bank = SegmentBank({"k": kind}, kernel)
    bank.threads = 7
    check(bank, kind, {"a": [3]}, ["a", None, "a"])


def test_a_freed_adapters_memory_is_not_read_again(kernel: Any) -> None:
    kind = Kind("k", ("m",), 32, (32,), layers=LAYERS)
    bank = SegmentBank({"k": kind}, kernel)
    first, second = weights("a", kind, [4]), weights("a", kind, [4])
    x, y = torch.randn(2, 32), torch.zeros(2, 32)
    results = []
    kept = [(made, bank.pack(made)) for made in (first, second)]  # at addresses that differ
    for made, packed in kept:
        bank.add(packed)
        bank.prepare(["a", "a"], [1])
        results.append(bank.apply("k", 0, x, y.clone()))
        assert torch.allclose(results[-1].double(), expected(kind, {"a": made}, ["a", "a"], x, y, 0), atol=1e-3)
        bank.remove("a")
    assert not torch.allclose(results[0], results[1])


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=30), inputs=st.integers(1, 70),
    outs=st.lists(st.integers(1, 90), min_size=1, max_size=3), seed=st.integers(0, 9),
)  # fmt: skip
def test_a_product_that_adds_the_update_itself_equals_both_in_turn(
    kernel: Any, rows: list[str | None], inputs: int, outs: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    kind = Kind("k", tuple("mno"[: len(outs)]), inputs, tuple(outs), layers=LAYERS)
    bank = SegmentBank({"k": kind}, kernel)
    for name, rank in (("a", 3), ("b", 9)):
        bank.add(bank.pack(weights(name, kind, [rank, 0, 2 * rank][: len(outs)])))
    bank.prepare(rows, [0])
    product = NativeProduct(torch.randn(sum(outs), inputs), torch.randn(sum(outs)), kernel)
    x = torch.randn(len(rows), inputs)
    for layer in range(LAYERS):
        wanted = bank.apply("k", layer, x, product(x))
        assert torch.equal(product(x, bank.update("k", layer)), wanted)


def test_a_row_does_not_depend_on_the_batch(kernel: Any) -> None:
    torch.manual_seed(5)
    kind = Kind("k", ("m", "n"), 70, (64, 33), layers=LAYERS)
    bank = SegmentBank({"k": kind}, kernel)
    for name, rank in (("a", 3), ("b", 9)):
        bank.add(bank.pack(weights(name, kind, [rank, 2])))
    rows: list[str | None] = ["a", "b", "a", None, "a", "b", "a", "a"]
    x, y = torch.randn(8, 70), torch.randn(8, 97)
    bank.prepare(rows, [0])
    together = bank.apply("k", 1, x, y.clone())
    for row, digest in enumerate(rows):
        bank.prepare([digest], [0])
        alone = bank.apply("k", 1, x[row : row + 1], y[row : row + 1].clone())
        assert torch.equal(alone[0], together[row])


def test_the_bytes_of_an_adapter_come_back(kernel: Any) -> None:
    kind = Kind("k", ("m",), 64, (64,), layers=LAYERS)
    bank = SegmentBank({"k": kind}, kernel)
    made = bank.pack(weights("a", kind, [4]))
    bank.add(made)
    assert bank.bytes == made.bytes == LAYERS * 4 * (64 + 64) * 4
    bank.remove("a")
    assert bank.bytes == 0


def test_the_library_is_built_once_and_kept(tmp_path: Path) -> None:
    library.native_library.cache_clear()
    folder = tmp_path / "native"
    assert library.native_library(str(folder)) is not None
    (built,) = folder.iterdir()
    before = built.stat().st_mtime_ns
    library.native_library.cache_clear()
    assert library.native_library(str(folder)) is not None
    assert [p.stat().st_mtime_ns for p in folder.iterdir()] == [before]


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false", "cc -no-such-flag"])
def test_without_a_working_compiler_tensor_operations_serve(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", compiler)
    library.native_library.cache_clear()
    try:
        assert kernels(torch.float32, run_dir=str(tmp_path)) is None
        assert "tensor operations" in caplog.text
        assert not list((tmp_path / "native").glob("*"))
    finally:
        library.native_library.cache_clear()


def test_a_build_that_is_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(compiler: str, part: Path, flags: tuple[str, ...]) -> None:
        part.write_bytes(b"half")
        raise launching.TookTooLongError("cc")

    monkeypatch.setattr(library, "compile_to", cut_off)
    library.native_library.cache_clear()
    assert library.native_library(str(tmp_path / "native")) is None
    assert not list((tmp_path / "native").iterdir())
    library.native_library.cache_clear()


def test_only_fp32_on_a_cpu_takes_the_kernel(kernel: Any) -> None:
    assert kernels(torch.float32) is not None
    assert kernels(torch.bfloat16) is None
    assert kernels(torch.float32, native=False) is None


@pytest.mark.parametrize(
    ("values", "good"),
    [([3e38, 3e38], True), ([1.0, float("nan")], False), ([float("inf"), float("-inf")], False), ([], True)],
)
def test_finite_values_whose_sum_overflows_are_finite(values: list[float], good: bool) -> None:
    assert finite(torch.tensor(values)) is good
