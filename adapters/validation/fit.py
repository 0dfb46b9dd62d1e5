"""Do an adapter's tensors belong to this base model, all of them, with the right shapes and ranks?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from django.utils.translation import gettext_noop

from adapters.bases.shapes import BODY_PREFIXES, BaseShapes
from adapters.failures import Refused
from adapters.formats.config import MAX_RANK, AdapterConfig
from adapters.formats.safetensors import ENDS, PARTS, A, B, Header, Tensor

from .targets import by_pattern, targeted

PREFIX = "base_model.model."
SERVED_DTYPES = {"F32", "F16", "BF16"}


@dataclass(frozen=True)
class Fit:
    modules: int
    max_rank: int
    dtype: str


def check_filled(header: Header) -> None:
    """Raises Refused where tensors hold nothing: the placeholders of DeepSpeed's ZeRO stage 3."""
    empty = [name for name, tensor in header.tensors.items() if 0 in tensor.shape]
    if empty:
        raise Refused("weights_empty", empty=len(empty), total=len(header.tensors), example=empty[0])


def check_tensors(header: Header, base_name: str) -> dict[str, dict[str, Tensor]]:
    """module -> {"A": tensor, "B": tensor, ...} by the words of `PARTS`. Raises Refused where the file holds anything
    but these, or one matrix of a pair alone."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in header.tensors.items():
        end = next((end for end in ENDS if name.endswith(end)), "")
        if not end:
            raise not_lora(name, tensor, header, base_name)
        if tensor.dtype not in SERVED_DTYPES:
            raise Refused("dtype_unsupported", tensor=name, dtype=tensor.dtype)
        pairs.setdefault(name.removesuffix(end), {})[PARTS[end]] = tensor
    if not pairs:
        raise Refused("weights_malformed", reason=gettext_noop("it contains no tensors"))
    for module, pair in pairs.items():
        if not any(set(two) <= set(pair) for two in (("A", "B"), ("embedding_A", "embedding_B"), ("tokens",))):
            missing = f"{module}{B if 'A' in pair else A}"
            raise Refused(
                "tensors_missing",
                expected=len(pairs),
                total=len(header.tensors) // 2,
                base=base_name,
                example=missing,
            )
    return pairs


def not_lora(name: str, tensor: Tensor, header: Header, base_name: str) -> Refused:
    last = name.rpartition(".")[2]
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
    found = _at_run_time(check_tensors(header, base_name), base)
    pairs = {name: pair for name, pair in found.items() if "A" in pair}
    embedded = {name: pair for name, pair in found.items() if "A" not in pair}
    if config.fan_in_fan_out and not base.conv1d:
        raise Refused("fan_in_fan_out_mismatch")
    unknown = [name for name in pairs if _shape(name, base) is None]
    unknown += [name for name in embedded if _embedding(name, base, "tokens" in embedded[name]) is None]
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
    ranked = {**pairs, **{name: pair for name, pair in embedded.items() if "embedding_A" in pair}}
    _check_parts(config, ranked, base_name)
    _check_tokens(config, embedded, base_name)
    for name, pair in embedded.items():
        _check_embedding(config, name, pair, _embedding(name, base, "tokens" in pair) or (0, 0), base_name)
    modules = tuple(name[len(PREFIX) :] for name in ranked)
    _check_roles(modules, base)
    _check_targets(config, modules, base, base_name)
    _check_ranks(config, modules, ranked)
    ranks = [_first(pair).shape[0] for pair in ranked.values()]
    return Fit(len(ranked), max(ranks, default=0), _first(next(iter(found.values()))).dtype)


def check_changed(header: Header, changed: frozenset[str], base: BaseShapes) -> None:
    """May these tensors, which the base has too, be other than the base's? Raises Refused."""
    for name in sorted(changed):
        tensor = header.tensors[name]
        if tensor.dtype not in SERVED_DTYPES:
            raise Refused("dtype_unsupported", tensor=name, dtype=tensor.dtype)
        module, _, last = name.removeprefix(PREFIX).rpartition(".")
        module = module.removesuffix(".base_layer")
        if last not in ("weight", "bias") or base.roles.get(base.earlier_names.get(module, module)) == "fixed":
            raise Refused("tensors_unserved", total=len(changed), example=name)


def _first(pair: dict[str, Tensor]) -> Tensor:
    return pair.get("A") or pair.get("embedding_A") or pair["tokens"]


def _embedding(name: str, base: BaseShapes, tokens: bool) -> tuple[int, int] | None:
    """(rows, width) of the embedding that PEFT calls `name`; of a linear layer where that may have `tokens` too."""
    if not name.startswith(PREFIX):
        return None
    module = name[len(PREFIX) :]
    for known, shape in base.embeddings.items():
        if known == module or any(known == module.removeprefix(prefix) for prefix in BODY_PREFIXES):
            return shape
    return base.module(module) if tokens else None


def _check_parts(config: AdapterConfig, pairs: dict[str, dict[str, Tensor]], base_name: str) -> None:
    """What the config says of every pair must be in the file for every pair, and nothing else."""
    for field, said, part in (("use_dora", config.dora, "magnitude"), ("lora_bias", config.pair_bias, "pair_bias")):
        having = [name for name, pair in pairs.items() if part in pair]
        if not said and having:
            raise Refused("config_invalid", field=field, reason=gettext_noop("the weights file says otherwise"))
        lacking = [name for name, pair in pairs.items() if said and part not in pair]
        if lacking:
            end = next(end for end, known in PARTS.items() if known == part)
            raise Refused(
                "tensors_missing", expected=len(pairs), total=len(having), base=base_name, example=lacking[0] + end
            )


def _check_tokens(config: AdapterConfig, embedded: dict[str, dict[str, Tensor]], base_name: str) -> None:
    having = [name for name, pair in embedded.items() if "tokens" in pair]
    if not config.tokens and having:
        reason = gettext_noop("the weights file says otherwise")
        raise Refused("config_invalid", field="trainable_token_indices", reason=reason)
    lacking = [word for word, _ in config.tokens if not any(name.endswith(word) for name in having)]
    # Of layers that share their weights, PEFT saves the rows of one.
    if lacking and (not having or len(lacking) == len(config.tokens)):
        example = f"{lacking[0] or 'embed_tokens'}.token_adapter.trainable_tokens_delta"
        raise Refused(
            "tensors_missing", expected=len(config.tokens), total=len(having), base=base_name, example=example
        )


def _check_embedding(
    config: AdapterConfig, name: str, pair: dict[str, Tensor], shape: tuple[int, int], base_name: str
) -> None:  # fmt: skip
    rows, width = shape
    if "tokens" in pair:
        indices = config.tokens_of(name)
        wanted = (len(indices), width)
        if pair["tokens"].shape != wanted or any(index >= rows for index in indices):
            raise _misfit(name, pair["tokens"].shape, str(wanted), base_name)
    if "embedding_A" not in pair:
        return
    a, b = pair["embedding_A"].shape, pair["embedding_B"].shape
    if len(a) != 2 or a[1] != rows or b != (width, a[0]) or not 1 <= a[0] <= MAX_RANK:
        raise _misfit(f"{name}.lora_embedding_A", a, f"(rank, {rows})", base_name)
    if "magnitude" in pair and pair["magnitude"].shape != (width,):
        raise _misfit(f"{name}.lora_magnitude_vector", pair["magnitude"].shape, f"({width},)", base_name)


def _at_run_time(pairs: dict[str, dict[str, Tensor]], base: BaseShapes) -> dict[str, dict[str, Tensor]]:
    """The pairs by the names of the running model; those of an earlier release are understood as PEFT does."""
    renamed = {}
    for name, pair in pairs.items():
        module = name.removeprefix(PREFIX)
        known = module if module in base.roles else base.earlier_names.get(module, module)
        renamed[PREFIX + known if name.startswith(PREFIX) else name] = pair
    return renamed if len(renamed) == len(pairs) else pairs


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
    for part in ("magnitude", "pair_bias"):
        if part in pair and pair[part].shape != (out_features,):
            raise _misfit(f"{name} ({part})", pair[part].shape, f"({out_features},)", base_name)
    if b[1] != rank or not 1 <= rank <= MAX_RANK:
        raise Refused("rank_mismatch", module=name, found=f"{rank} and {b[1]}", expected=f"1-{MAX_RANK}")


def _misfit(tensor: str, found: tuple[int, ...], expected: str, base: str) -> Refused:
    return Refused("base_mismatch", base=base, tensor=tensor, found=str(found), expected=expected)


def _check_roles(modules: tuple[str, ...], base: BaseShapes) -> None:
    fixed = [name for name in modules if base.roles.get(name) == "fixed"]
    if fixed:
        raise Refused("tensors_unserved", total=len(fixed), example=fixed[0])
    if modules and all(base.roles.get(name) == "idle" for name in modules):
        raise Refused("no_effect", reason=gettext_noop("text input does not pass through the modules it changes"))


@lru_cache(maxsize=64)
def _expected(config: AdapterConfig, names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(targeted(config, names))


def _check_targets(config: AdapterConfig, modules: tuple[str, ...], base: BaseShapes, base_name: str) -> None:
    """The modules that the config targets and those in the file must be the same."""
    there = set(modules)
    # A file may hold a module under a name that the base's own file abbreviates or ties (lm_head), or an embedding.
    extra = tuple(sorted(there.difference(base.names)))
    expected = _expected(config, base.names + extra)
    missing = sorted(name for name in expected - there if base.roles.get(name) != "idle")
    if missing:
        raise Refused("tensors_missing", expected=len(expected), total=len(there), base=base_name, example=missing[0])
    idle = sorted(there - expected)
    if idle:
        raise Refused("tensors_untargeted", total=len(idle), example=idle[0])


def _check_ranks(config: AdapterConfig, modules: tuple[str, ...], pairs: dict[str, dict[str, Tensor]]) -> None:
    ranks = by_pattern(config.rank_pattern, modules, "rank_pattern", config.rank)
    for module in modules:
        found = _first(pairs[PREFIX + module]).shape[0]
        if found != ranks[module]:
            raise Refused("rank_mismatch", module=module, found=found, expected=ranks[module])
    # What the engine will ask when it loads the adapter; a pattern that cannot be matched is refused here and now.
    by_pattern(config.alpha_pattern, modules, "alpha_pattern", config.alpha)
