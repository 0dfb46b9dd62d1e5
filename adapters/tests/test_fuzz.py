"""Foreign bytes: whatever a file claims, it is read in time, in little memory, and never by an exception."""

from __future__ import annotations

import io
import json
import struct
import time
import tracemalloc
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.failures import FAILURES, Refused, render
from adapters.formats import config as adapter_config
from adapters.formats.files import parse_json
from adapters.formats.safetensors import DTYPE_SIZES, read_header
from adapters.identifiers import SLUG, slugify
from adapters.tests import layouts as make
from adapters.training.readers import from_card, from_log, from_state
from adapters.validation.fit import check_tensors
from adapters.validation.targets import targeted

SECONDS, MEGABYTES = 1.0, 50
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([2**64, -1, 1e308])
)
values = st.recursive(
    scalars, lambda c: st.lists(c, max_size=4) | st.dictionaries(st.text(max_size=8), c, max_size=4), max_leaves=12
)
VALID = make.pack(make.lora_tensors())
MODULES = [make.module(layer, name) for layer in range(2) for name in make.OUT]


def header_of(data: bytes) -> Any:
    """The header or the refusal's code; anything else fails the test."""
    try:
        return read_header(io.BytesIO(data), len(data))
    except Refused as refused:
        assert refused.code in FAILURES
        assert len(json.dumps(refused.details)) < 2000
        assert render(refused.code, refused.details)
        return refused.code


@quick
@given(st.binary(max_size=300))
def test_any_bytes_as_a_header(data: bytes) -> None:
    assert isinstance(header_of(data), str)


@quick
@given(st.integers(0, len(VALID) - 1), st.integers(0, 255), st.integers(0, len(VALID)))
def test_a_sound_file_with_a_changed_byte_or_cut_off(position: int, byte: int, end: int) -> None:
    data = bytearray(VALID)
    data[position] = byte
    found = header_of(bytes(data))
    if not isinstance(found, str):  # then it must hold what was promised
        check_promises(found, len(data))
    assert isinstance(header_of(VALID[:end]), str) or end == len(VALID)


def check_promises(header: Any, size: int) -> None:
    position = 0
    for tensor in header.tensors.values():
        count = DTYPE_SIZES[tensor.dtype]
        for dimension in tensor.shape:
            count *= dimension
        assert (tensor.start, tensor.end) == (position, position + count)
        position = tensor.end
    assert header.data_start + position == size


@quick
@given(values)
def test_any_json_as_a_header(value: Any) -> None:
    raw = json.dumps(value).encode()
    header_of(struct.pack("<Q", len(raw)) + raw)


@quick
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "I8", "nope"]) | scalars,
                "shape": st.lists(st.integers(-1, 2**40) | scalars, max_size=10),
                "data_offsets": st.lists(st.integers(-1, 2**40) | scalars, min_size=1, max_size=3),
            }
        ),
        max_size=5,
    ),
    st.integers(0, 64),
)
def test_any_tensors_in_a_header(tensors: dict[str, Any], size: int) -> None:
    raw = json.dumps(tensors).encode()
    data = struct.pack("<Q", len(raw)) + raw + bytes(size)
    found = header_of(data)
    if not isinstance(found, str):
        check_promises(found, len(data))
        try:
            check_tensors(found, "base")
        except Refused as refused:
            assert refused.code in FAILURES


def test_the_worst_headers_stay_within_time_and_memory() -> None:
    deep = b"[" * (2**20 - 8)
    many = b"{" + b",".join(b'"%d":{}' % n for n in range(100_000))
    digits = b'{"a":{"dtype":"F32","shape":[' + b"9" * 900_000 + b'],"data_offsets":[0,4]}}'
    names = json.dumps({f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(17_000)}).encode()
    for raw in (deep, many[: 2**20 - 1] + b"}", digits, b'{"' + b"\\u0000" * 170_000 + b'":1}', names[: 2**20]):
        data = struct.pack("<Q", len(raw)) + raw
        tracemalloc.start()
        started = time.process_time()
        header_of(data)
        seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < 5 * SECONDS  # tracing is several times slower than reality
        assert peak < MEGABYTES * 2**20


keys = st.sampled_from(sorted(make.config())) | st.text(max_size=12)


@quick
@given(st.dictionaries(keys, values, max_size=6))
def test_any_config(changes: dict[str, Any]) -> None:
    raw = make.config(**{str(k): v for k, v in changes.items()})
    started = time.process_time()
    adapter_config.glance(raw)
    try:
        found = adapter_config.check(raw)
        targeted(found, MODULES)
    except Refused as refused:
        assert refused.code in FAILURES
        assert "%(" not in render(refused.code, refused.details)
    else:
        assert 1 <= found.rank <= adapter_config.MAX_RANK
        assert abs(found.alpha) <= 1e6
    assert time.process_time() - started < 5 * SECONDS


@quick
@given(values)
def test_any_json_as_a_config(value: Any) -> None:
    adapter_config.glance(value)
    try:
        adapter_config.check(value)
    except Refused as refused:
        assert refused.code in FAILURES


@quick
@given(st.binary(max_size=400) | values.map(lambda value: json.dumps(value).encode()))
def test_any_facts(data: bytes) -> None:
    for reader in (from_state, from_log, from_card):
        summary: dict[str, Any] = {}
        try:
            reader(data, summary, {})
        except (Refused, ValueError):
            pass
        json.dumps(summary, allow_nan=False)


@quick
@given(st.binary(max_size=200))
def test_any_bytes_as_json(data: bytes) -> None:
    try:
        parse_json(data, "file")
    except Refused as refused:
        assert refused.code == "config_malformed"


@quick
@given(st.text(max_size=200))
def test_any_name_makes_a_slug(name: str) -> None:
    slug = slugify(name)
    assert SLUG.match(slug) and slug == slug.lower() and "/" not in slug
