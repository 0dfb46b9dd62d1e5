"""Do an adapter's tensors belong to this base model, all of them, with the right shapes and ranks?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from adapters.bases.shapes import BaseShapes
from adapters.failures import Refused
from adapters.formats.config import MAX_RANK, AdapterConfig
from adapters.formats.safetensors import Header, Tensor

from .targets import by_pattern, targeted

PREFIX = "base_model.model."
SERVED_DTYPES = {"F32", "F16", "BF16"}
A, B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Fit:
    modules: int
    max_rank: int
    dtype: str


def check_tensors(header: Header, base_name: str) -> dict[str, dict[str, Tensor]]:
    """module -> {"A": tensor, "B": tensor}. Raises Refused where the file holds anything but LoRA pairs."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in header.tensors.items():
        kind = "A" if name.endswith(A) else "B" if name.endswith(B) else ""
        if not kind:
            raise _not_lora(name, tensor, header, base_name)
        if tensor.dtype not in SERVED_DTYPES:
            raise Refused("dtype_unsupported", tensor=name, dtype=tensor.dtype)
        pairs.setdefault(name[: -len(A)], {})[kind] = tensor
    if not pairs:
        raise Refused("weights_malformed", reason="there are no tensors in it")
    for module, pair in pairs.items():
        if len(pair) != 2:
            missing = f"{module}{B if 'A' in pair else A}"
            raise Refused(
                "tensors_missing",
                expected=len(pairs),
                total=len(header.tensors) // 2,
                base=base_name,
                example=missing,
            )
    return pairs


def _not_lora(name: str, tensor: Tensor, header: Header, base_name: str) -> Refused:
    last = name.rpartition(".")[2]
    if "lora_magnitude_vector" in name:
        return Refused("dora_unsupported", field="lora_magnitude_vector")
    if "lora_embedding_" in name:
        return Refused("variant_unsupported", field="LoRA on embeddings")
    if last == "bias":
        return Refused("bias_unsupported", field=name)
    if "embed" in name or "lm_head" in name or ".wte." in name:
        sizes = " x ".join(map(str, tensor.shape))
        return Refused("vocabulary_resized", reason=f"{name}: {sizes}")
    if ".modules_to_save." in name or name.startswith(PREFIX) and ".lora_" not in name:
        return Refused("modules_to_save_unsupported", modules=name)
    matched = sum(1 for other in header.tensors if other.endswith((A, B)))
    return Refused("tensors_mismatch", matched=matched, total=len(header.tensors), base=base_name, example=name)


def check_fit(config: AdapterConfig, header: Header, base: BaseShapes, base_name: str) -> Fit:
    """Compare every name, shape and rank with the base. Raises Refused; never accepts a part."""
    pairs = check_tensors(header, base_name)
    if config.fan_in_fan_out and not base.conv1d:
        raise Refused("fan_in_fan_out_mismatch")
    unknown = [name for name in pairs if _shape(name, base) is None]
    for name, pair in pairs.items():
        shape = _shape(name, base)
        if shape is not None:
            _check_shapes(name, pair, shape, base_name)
    if unknown:
        total = len(header.tensors)
        raise Refused(
            "tensors_mismatch", matched=total - 2 * len(unknown), total=total, base=base_name,
            example=unknown[0] + A,
        )  # fmt: skip
    modules = tuple(name[len(PREFIX) :] for name in pairs)
    _check_targets(config, modules, base, base_name)
    _check_ranks(config, modules, pairs)
    ranks = [pair["A"].shape[0] for pair in pairs.values()]
    return Fit(len(pairs), max(ranks), next(iter(pairs.values()))["A"].dtype)


def _shape(name: str, base: BaseShapes) -> tuple[int, int] | None:
    return base.module(name[len(PREFIX) :]) if name.startswith(PREFIX) else None


def _check_shapes(name: str, pair: dict[str, Tensor], shape: tuple[int, int], base_name: str) -> None:
    out_features, in_features = shape
    a, b = pair["A"].shape, pair["B"].shape
    rank = a[0] if len(a) == 2 else 0
    if len(a) != 2 or a[1] != in_features:
        raise _misfit(name + A, a, f"(rank, {in_features})", base_name)
    if len(b) != 2 or b[0] != out_features:
        raise _misfit(name + B, b, f"({out_features}, rank)", base_name)
    if b[1] != rank or not 1 <= rank <= MAX_RANK:
        raise Refused("rank_mismatch", module=name, found=f"{rank} and {b[1]}", expected=f"1-{MAX_RANK}")


def _misfit(tensor: str, found: tuple[int, ...], expected: str, base: str) -> Refused:
    return Refused("base_mismatch", base=base, tensor=tensor, found=str(found), expected=expected)


@lru_cache(maxsize=64)
def _expected(config: AdapterConfig, names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(targeted(config, names))


def _check_targets(config: AdapterConfig, modules: tuple[str, ...], base: BaseShapes, base_name: str) -> None:
    """The modules that the config targets and those in the file must be the same."""
    there = set(modules)
    # A file may hold a module under a name that the base's own file abbreviates or ties (lm_head).
    extra = tuple(sorted(there.difference(base.names)))
    expected = _expected(config, base.names + extra)
    missing = sorted(expected - there)
    if missing:
        raise Refused("tensors_missing", expected=len(expected), total=len(there), base=base_name, example=missing[0])
    idle = sorted(there - expected)
    if idle:
        raise Refused("tensors_untargeted", total=len(idle), example=idle[0])


def _check_ranks(config: AdapterConfig, modules: tuple[str, ...], pairs: dict[str, dict[str, Tensor]]) -> None:
    ranks = by_pattern(config.rank_pattern, modules, "rank_pattern", config.rank)
    for module in modules:
        found = pairs[PREFIX + module]["A"].shape[0]
        if found != ranks[module]:
            raise Refused("rank_mismatch", module=module, found=found, expected=ranks[module])
    # What the engine will ask when it loads the adapter; a pattern that cannot be matched is refused here and now.
    by_pattern(config.alpha_pattern, modules, "alpha_pattern", config.alpha)
