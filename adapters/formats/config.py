"""`adapter_config.json` against a strict schema: what PEFT 0.21 writes, and what the engine serves exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_noop

import patterns
from adapters.failures import Refused

from . import mlx
from .peft_types import CONVERTIBLE, MERGEABLE, PROMPTS

LIMIT = 2**20  # bytes
MAX_RANK = 512
MAX_TARGETS = 4096
MAX_PATTERN = 2000

# Written by PEFT or by trainers and without meaning for the result.
IGNORED = {
    "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying",
    "base_model_class", "parent_library", "model_type", "transformers_version", "library_name", "unsloth_version",
    "unsloth_fixed", "_commit_hash", "_name_or_path", "swift_version", "created_by",
}  # fmt: skip
SERVED = {
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "exclude_modules",
    "fan_in_fan_out", "bias", "use_rslora", "init_lora_weights", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_dora", "lora_bias", "trainable_token_indices",
}  # fmt: skip
# Truthy values of these name what cannot be served.
REFUSED = {
    "layer_replication": "layer_replication_unsupported",
    "use_bias": "bias_unsupported",
    "use_qalora": "variant_unsupported",
    "alora_invocation_tokens": "variant_unsupported",
    "target_parameters": "parameters_unsupported",
    "use_bdlora": "variant_unsupported",
    "arrow_config": "variant_unsupported",
    "velora_config": "variant_unsupported",
    "monteclora_config": "variant_unsupported",
    "kasa_config": "variant_unsupported",
    "megatron_config": "variant_unsupported",
}
PARAMETERS = "target_parameters"  # weights that are no layer's: those of fused experts
MOST_NAMED = 8
# Initialisations that leave the base model as it was; B @ A of the file is all that is added.
PLAIN_INITS = {"gaussian", "eva", "orthogonal", "mica", "true", "false"}
CONVERT_ADVICE = gettext_noop(
    "Convert it to LORA with peft.save_as_lora (the higher the rank, the closer the result), or merge it into its base "
    "model."
)
PROMPT_ADVICE = gettext_noop("Train a LORA adapter on the same data; soft prompts cannot be converted to LORA.")
MERGE_ADVICE = gettext_noop("Merge it into its base model with merge_and_unload and use the result as a base model.")
DEFAULT_ADVICE = gettext_noop(
    "Merge it into its base model with merge_and_unload, or train a LORA adapter on the same data."
)
MLX_ADVICE = gettext_noop("It was trained with MLX. Merge it with mlx_lm.fuse and use the result as a base model.")
FORMAT_ADVICE = gettext_noop("Save the adapter with PEFT's save_pretrained, which writes adapter_model.safetensors.")


@dataclass(frozen=True)
class AdapterConfig:
    """The checked fields that decide how an adapter is served."""

    rank: int
    alpha: float
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    layers: tuple[int, ...] | None
    layers_patterns: tuple[str, ...]
    rank_pattern: tuple[tuple[str, int], ...]
    alpha_pattern: tuple[tuple[str, float], ...]
    rslora: bool
    fan_in_fan_out: bool
    has_code: bool  # names remote code (auto_map); never run
    saved_modules: tuple[str, ...]  # whole layers in the file (modules_to_save)
    dora: bool
    pair_bias: bool  # lora_bias
    tokens: tuple[tuple[str, tuple[int, ...]], ...]  # trainable_token_indices by layer; "": the input embedding
    remarks: tuple[str, ...] = ()  # codes of failures.py that stop nothing

    def tokens_of(self, module: str) -> tuple[int, ...]:
        """The token ids that a layer has its own rows for."""
        return next((ids for name, ids in self.tokens if module.endswith(name)), ())


@dataclass(frozen=True)
class Glance:
    """What can be shown of a config even where it is refused."""

    base_name: str = ""
    peft_type: str = ""
    rank: int | None = None
    alpha: float | None = None
    target_modules: tuple[str, ...] = ()


def glance(raw: Any) -> Glance:
    """Facts for the list, taken over only where they have a sound type."""
    if not isinstance(raw, dict):
        return Glance()
    if mlx.is_config(raw):
        raw = mlx.glance(raw)
    base, kind, rank, alpha = (raw.get(k) for k in ("base_model_name_or_path", "peft_type", "r", "lora_alpha"))
    targets = raw.get("target_modules")
    names = [targets] if isinstance(targets, str) else targets if isinstance(targets, list) else []
    return Glance(
        base_name=clean(base, 512) if isinstance(base, str) else "",
        peft_type=clean(kind, 64) if isinstance(kind, str) else "",
        rank=rank if type(rank) is int and 0 <= rank < 2**31 else None,
        alpha=_shown(alpha),
        target_modules=tuple(sorted(clean(n, 200) for n in names[:200] if isinstance(n, str))),
    )


def advice_for(kind: str) -> str:
    """What to do with an adapter of another PEFT type; what PEFT itself offers comes first."""
    for types, advice in ((CONVERTIBLE, CONVERT_ADVICE), (PROMPTS, PROMPT_ADVICE), (MERGEABLE, MERGE_ADVICE)):
        if kind.upper() in types:
            return advice
    return DEFAULT_ADVICE


def other_format(raw: Any, file: str) -> Refused | None:
    """What to say of a folder whose only weights are in `file`; None where it is "", and nothing is known of any."""
    if mlx.is_config(raw):
        return Refused("other_format", file=file or "adapters.safetensors", advice=MLX_ADVICE)
    return Refused("other_format", file=file, advice=FORMAT_ADVICE) if file else None


def _shown(value: Any) -> float | None:
    return float(value) if _is_number(value) and abs(value) < 1e300 else None


def clean(text: str, limit: int) -> str:
    """Without characters that a database or a terminal chokes on, and not longer than `limit`."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:limit])


def check(raw: Any) -> AdapterConfig:
    """The config as the engine needs it. Raises Refused with the code of the first thing that stands against it."""
    if not isinstance(raw, dict):
        raise Refused("config_malformed", file="adapter_config.json", reason=gettext_noop("not an object"))
    _check_kind(raw)
    _check_refused(raw)
    for key, value in raw.items():
        if is_unknown(key) and switches(key, value):
            raise Refused("config_unknown_key", field=clean(str(key), 100))
    base = raw.get("base_model_name_or_path")
    if base is not None and (not isinstance(base, str) or len(base) > 4096):
        raise _invalid("base_model_name_or_path", gettext_noop("not a string"))
    return AdapterConfig(
        rank=_rank("r", raw.get("r", 8)),
        alpha=_alpha("lora_alpha", raw.get("lora_alpha", 8)),
        target_modules=_names(raw, "target_modules", required=True),
        exclude_modules=_names(raw, "exclude_modules"),
        layers=_layers(raw.get("layers_to_transform")),
        layers_patterns=_texts(raw.get("layers_pattern"), "layers_pattern"),
        rank_pattern=tuple((k, _rank("rank_pattern", v)) for k, v in _table(raw, "rank_pattern")),
        alpha_pattern=tuple((k, _alpha("alpha_pattern", v)) for k, v in _table(raw, "alpha_pattern")),
        rslora=_flag(raw, "use_rslora"),
        fan_in_fan_out=_flag(raw, "fan_in_fan_out"),
        has_code=bool(raw.get("auto_map")),
        saved_modules=_texts(raw.get("modules_to_save"), "modules_to_save"),
        remarks=tuple(_remarks(raw)),
        dora=_flag(raw, "use_dora"),
        pair_bias=_flag(raw, "lora_bias"),
        tokens=_tokens(raw.get("trainable_token_indices")),
    )


_OWN = {"modules_to_save", "auto_map"}
# Of another task than writing on, but of the same decoder: which task a trainer wrote down changes no tensor.
DECODER_TASKS = {"CAUSAL_LM", "SEQ_2_SEQ_LM"}
MOST_SHOWN = 20  # unknown keys


def is_unknown(key: str) -> bool:
    return key not in IGNORED and key not in SERVED and key not in REFUSED and key not in _OWN


def switches(key: str, value: Any) -> bool:
    """Whether an unknown key may stand for another way to compute: PEFT turns each variant of LoRA on by such a key.
    Any other one it ignores when it loads a config of a later release (peft/config.py), and so do we."""
    return bool(value) and (key.startswith("use_") or key.endswith("_config") or key.startswith("enable_"))


def unknown_keys(raw: Any) -> list[tuple[str, str]]:
    """(name, value) of the config's keys that are kept and have no effect, as a page may show them."""
    if not isinstance(raw, dict):
        return []
    found = [(key, value) for key, value in raw.items() if is_unknown(key) and value]
    return [(clean(key, 100), clean(json.dumps(value, ensure_ascii=False), 200)) for key, value in found[:MOST_SHOWN]]


def _remarks(raw: dict[str, Any]) -> Iterator[str]:
    if str(raw.get("task_type") or "").strip().upper() != "CAUSAL_LM":
        yield "task_type_differs"
    targets = raw.get("target_modules")
    if isinstance(targets, list) and len(set(targets)) != len(targets):
        yield "targets_repeated"
    if unknown_keys(raw):
        yield "config_keys_unknown"


def _check_kind(raw: dict[str, Any]) -> None:
    kind = raw.get("peft_type")
    if not isinstance(kind, str) or not kind:
        raise _invalid("peft_type", gettext_noop("missing"))
    if kind.upper() != "LORA":
        advice = advice_for(kind)
        raise Refused("unsupported_peft_type", peft_type=clean(kind, 64), advice=advice)
    task = raw.get("task_type")
    if task is not None and not isinstance(task, str):
        raise _invalid("task_type", gettext_noop("not a string"))
    if task and task.strip() and task.upper() not in DECODER_TASKS:  # an empty one says as little as none
        raise Refused("unsupported_task_type", task_type=clean(task, 64))


def _check_refused(raw: dict[str, Any]) -> None:
    for key, code in REFUSED.items():
        if value := raw.get(key):
            raise Refused(code, field=key, reason=key, **({"parameters": _listed(value)} if key == PARAMETERS else {}))
    bias = raw.get("bias", "none")
    if bias == "":
        raise _invalid("bias", gettext_noop("missing"))
    if bias not in ("none", "all", "lora_only", None):
        raise Refused("bias_unsupported", field=f"bias={clean(str(bias), 40)}")
    init = raw.get("init_lora_weights", True)
    if init == "":
        raise _invalid("init_lora_weights", gettext_noop("missing"))
    if isinstance(init, str):
        if init.lower() not in PLAIN_INITS:
            raise Refused("init_changes_base", method=clean(init, 64))
    elif init is not None and not isinstance(init, bool):
        raise _invalid("init_lora_weights", gettext_noop("neither a string nor true or false"))


def _listed(value: Any) -> str:
    """The names in a list, or a single one, as a page may show them."""
    names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    found = ", ".join(clean(name, 100) for name in names[:MOST_NAMED] if isinstance(name, str))
    return f"{found}, …" if len(names) > MOST_NAMED else found


def _invalid(field: str, reason: str) -> Refused:
    return Refused("config_invalid", field=field, reason=reason)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and (type(value) is int or math.isfinite(value))


def _rank(field: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise _invalid(field, gettext_noop("must be a whole number from 1 to 512"))
    return value


def _alpha(field: str, value: Any) -> float:
    if not _is_number(value) or abs(value) > 1e6:
        raise _invalid(field, gettext_noop("must be a finite number up to 1,000,000"))
    return float(value)


def _flag(raw: dict[str, Any], key: str) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise _invalid(key, gettext_noop("neither true nor false"))
    return bool(value)


def _names(raw: dict[str, Any], key: str, required: bool = False) -> str | tuple[str, ...]:
    value = raw.get(key)
    if isinstance(value, str) and value:
        if len(value) > MAX_PATTERN:
            raise _invalid(key, gettext_noop("longer than 2,000 characters"))
        try:
            patterns.check(value)
        except patterns.InvalidPatternError:
            raise _invalid(key, gettext_noop("not a regular expression")) from None
        return value
    if not value:
        if required:
            raise _invalid(key, gettext_noop("missing"))
        return ()
    return _texts(value, key)


def _texts(value: Any, key: str) -> tuple[str, ...]:
    if not value:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or len(value) > MAX_TARGETS:
        raise _invalid(key, gettext_noop("not a list of names"))
    if not all(isinstance(item, str) and 0 < len(item) <= 512 for item in value):
        raise _invalid(key, gettext_noop("not a list of names"))
    return tuple(value)


def _layers(value: Any) -> tuple[int, ...] | None:
    if value is None or value == []:
        return None
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_TARGETS or not all(type(item) is int and 0 <= item < 100_000 for item in items):
        raise _invalid("layers_to_transform", gettext_noop("not a list of layer numbers"))
    return tuple(items)


def _tokens(value: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """What `trainable_token_indices` says: ids for the input embedding, or a mapping of layers to ids."""
    table = value if isinstance(value, dict) else {"": value} if value else {}
    if len(table) > MAX_TARGETS or not all(len(name) <= 512 for name in table):
        raise _invalid("trainable_token_indices", gettext_noop("a name is empty or too long"))
    for ids in table.values():
        if not isinstance(ids, list) or not all(type(index) is int and 0 <= index < 2**31 for index in ids):
            raise _invalid("trainable_token_indices", gettext_noop("not a list of token ids"))
    return tuple((name, tuple(ids)) for name, ids in table.items())


def _table(raw: dict[str, Any], key: str) -> list[tuple[str, Any]]:
    value = raw.get(key)
    if not value:
        return []
    if not isinstance(value, dict) or len(value) > MAX_TARGETS:
        raise _invalid(key, gettext_noop("not a mapping"))
    if not all(0 < len(name) <= 512 for name in value):
        raise _invalid(key, gettext_noop("a name is empty or too long"))
    return list(value.items())
