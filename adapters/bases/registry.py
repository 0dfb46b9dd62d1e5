"""Base models: found under `BASE_MODELS_DIR`, checked by their headers, matched to what adapters recorded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from adapters.containment import contained
from adapters.failures import CHECK_FAILED, Refused
from adapters.formats.added_tokens import Location
from adapters.formats.config import clean
from adapters.formats.files import parse_json, read_small
from adapters.formats.tokenizer import default_template
from adapters.identifiers import text_hash, unique_slug
from adapters.models import BaseMapping, BaseModel, LoraAdapter

from . import support
from .identity import TEMPLATES, base_root, config_hash, content_key, states
from .shapes import BaseShapes, read_shapes

logger = logging.getLogger(__name__)

CONFIG_LIMIT = 2**20
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("spiece.model",))
# A weight in NF4 with double quantisation: 4 bits, 8 for 64 weights, 32 for 64 * 256. The engine has the same.
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
OVERHEAD = 350 * 2**20  # the worker process itself


@dataclass(frozen=True)
class Folder:
    """A model folder as it lies on disk."""

    path: str
    name: str
    hub_id: str
    signature: str


def find_folders(root: str) -> Iterator[Folder]:
    """Model folders: `name/`, `organisation/name/`, and the hub cache's `models--organisation--name/snapshots/*`."""
    for entry in _folders(root):
        if _is_model(entry.path):
            yield from _found(entry.path, entry.name, "")
        elif entry.name.startswith("models--"):
            hub_id = entry.name.removeprefix("models--").replace("--", "/", 1)
            snapshots = [e for e in _folders(os.path.join(entry.path, "snapshots")) if _is_model(e.path)]
            if snapshots:
                newest = max(snapshots, key=_changed)
                yield from _found(newest.path, hub_id.rpartition("/")[2], hub_id)
        else:
            for deeper in _folders(entry.path):
                if _is_model(deeper.path):
                    yield from _found(deeper.path, deeper.name, f"{entry.name}/{deeper.name}")


def _folders(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            found = [e for e in entries if not e.name.startswith(".") and e.name.isprintable() and e.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda e: e.name)


def _changed(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def _is_model(path: str) -> bool:
    try:
        names = set(os.listdir(path)) if os.access(path, os.R_OK | os.X_OK) else set()
    except OSError:  # removed meanwhile
        return False
    return "adapter_config.json" not in names and (
        "config.json" in names or any(n.endswith(".safetensors") for n in names)
    )


def _found(path: str, name: str, hub_id: str) -> Iterator[Folder]:
    with suppress(OSError):  # removed meanwhile
        yield _folder(path, name, hub_id)


def _folder(path: str, name: str, hub_id: str) -> Folder:
    return Folder(path, name, hub_id, text_hash(*states(path)))


def refresh() -> str:
    """Bring the rows in line with `BASE_MODELS_DIR`. Returns a fingerprint of all bases and mappings."""
    seen: set[str] = set()
    rows = {row.path_hash: row for row in BaseModel.objects.all()}
    for folder in find_folders(base_root()[0]):
        if len(folder.path) > 1024:
            continue
        key = text_hash(folder.path)
        seen.add(key)
        row = rows.get(key)
        if row is not None and row.signature == folder.signature and not row.missing and not _outdated(row):
            continue
        with contained("the base model in %s cannot be written", folder.path):
            _take(row, folder, key)
    gone = [row.pk for key, row in rows.items() if key not in seen and not row.missing]
    if gone:
        BaseModel.objects.filter(pk__in=gone).update(missing=True, updated_at=timezone.now())
    return fingerprint()


def _take(row: BaseModel | None, folder: Folder, path_hash: str) -> None:
    if row is None:
        row = BaseModel(path_hash=path_hash, path=folder.path, slug=_free_slug(folder.name))
    known = row.key
    _inspect(row, folder)
    with transaction.atomic():  # not before: reading takes seconds, for which SQLite would let nobody else write
        row.save()
        if known and row.key != known:
            _forget_proofs(row)


def is_current(row: BaseModel) -> bool:
    """Whether a base lies as its row says; looks at no other."""
    try:
        return not row.missing and _folder(row.path, "", "").signature == row.signature and not _outdated(row)
    except OSError:
        return False


def recheck(path: str, key: str) -> BaseModel | None:
    """Look at the base models again, since the files of the one at `path` are not those that gave it its `key`.

    Returns its row where its content is still the same (only times or files beside it have changed), else None.
    """
    refresh()
    support.start()
    row = BaseModel.objects.filter(path_hash=text_hash(path)).first()
    return row if row is not None and row.usable and row.key == key else None


def _forget_proofs(row: BaseModel) -> None:
    """What an adapter changes was measured on other weights: it is measured anew at its next load."""
    rows = LoraAdapter.objects.filter(base=row).exclude(proven_digest="")
    rows.update(proven_digest="", proven_at=None, effect_kl=None, effect_changed=None, updated_at=timezone.now())


def _outdated(row: BaseModel) -> bool:
    """A refusal that may not hold any more: another release of Transformers may know the architecture, another one of
    the portal may be free of an error."""
    return row.problem_code == CHECK_FAILED or row.problem_code == support.CODE and not support.known_refusal(row)


def fingerprint() -> str:
    """Changes whenever what was found about an adapter's base could."""
    rows = BaseModel.objects.order_by("pk").values_list("pk", "signature", "judged_for", "problem_code", "missing")
    maps = BaseMapping.objects.order_by("pk").values_list("pk", "recorded_hash", "base_id")
    return text_hash(repr(list(rows)), repr(list(maps)))


def _free_slug(name: str) -> str:
    return unique_slug(
        name,
        lambda slug: BaseModel.objects.filter(slug=slug).exists() or LoraAdapter.objects.filter(slug=slug).exists(),
    )


def _inspect(row: BaseModel, folder: Folder) -> None:
    """Fill `row` from the folder; a problem becomes its `problem_code`."""
    row.name, row.hub_id, row.signature, row.missing = folder.name[:255], folder.hub_id[:255], folder.signature, False
    row.problem_code, row.problem_details = "", {}
    try:
        config = _config(folder.path)
        _fill_config(row, config)
        shapes = read_shapes(base_root(), folder.path, row.model_type, folder.signature)
        _fill_shapes(row, shapes, config)
        row.key = content_key(folder.path, shapes.files)
        names = set(os.listdir(folder.path))
        row.has_chat_template = bool(template_of(folder.path))
        if not any(names.issuperset(group) for group in TOKENIZERS):
            raise Refused("base_tokenizer_missing")
        if reason := support.known_refusal(row):
            raise Refused(support.CODE, reason=reason)
    except Refused as refused:
        row.problem_code, row.problem_details = refused.code, refused.details
    except OSError as error:
        row.problem_code = "unreadable"
        row.problem_details = {"file": folder.name, "reason": os.strerror(error.errno or 0)}
    except Exception:
        logger.exception("the base model in %s could not be checked", folder.path)
        row.problem_code = CHECK_FAILED


def _config(path: str) -> dict[str, Any]:
    try:
        config = parse_json(read_small(base_root(), path, "config.json", CONFIG_LIMIT), "config.json")
    except Refused as refused:
        if refused.code == "files_missing":
            raise Refused("base_config_missing") from None
        raise
    if not isinstance(config, dict):
        raise Refused("config_malformed", file="config.json", reason=gettext_noop("not an object"))
    return config


def _fill_config(row: BaseModel, config: dict[str, Any]) -> None:
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    merged = {**(text or {}), **config}
    names = config.get("architectures")
    row.config_hash = config_hash(config)
    row.architecture = clean(str(names[0]), 128) if isinstance(names, list) and names else ""
    row.model_type = clean(str(merged.get("model_type") or ""), 64)
    row.context_length = _count(merged, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
    row.vocab_size = _count(merged, "vocab_size")
    recorded = config.get("_name_or_path")
    if (
        not row.hub_id
        and isinstance(recorded, str)
        and recorded.count("/") == 1
        and not recorded.startswith((".", "/"))
    ):
        row.hub_id = clean(recorded, 255)
    quantisation = config.get("quantization_config")
    if isinstance(quantisation, dict):
        method = str(quantisation.get("quant_method") or "")
        if method not in {"bitsandbytes", ""}:
            raise Refused("base_quantization_unsupported", method=method)


def _count(config: dict[str, Any], *keys: str) -> int:
    for key in keys:
        value = config.get(key)
        if type(value) is int and 0 < value < 2**31:
            return value
    return 0


def _fill_shapes(row: BaseModel, shapes: BaseShapes, config: dict[str, Any]) -> None:
    row.parameters = shapes.parameters
    row.dtype = shapes.dtype
    row.size_bytes = sum(os.stat(os.path.join(row.path, name)).st_size for name in shapes.files)
    rest = shapes.parameters - shapes.linear_parameters
    row.memory_fp32 = shapes.parameters * 4 + OVERHEAD
    row.memory_bf16 = shapes.parameters * 2 + OVERHEAD
    row.memory_nf4 = int(shapes.linear_parameters * NF4_BYTES) + rest * 2 + OVERHEAD


def folder_of(base: BaseModel | None) -> Location | None:
    return Location(base_root(), base.path) if base is not None else None


def template_of(path: str) -> str:
    """The chat template that Transformers reads from a base's folder; "" where there is none that can be read."""
    for name in ("chat_template.jinja", os.path.join(TEMPLATES, "default.jinja")):
        with suppress(Refused):
            return read_small(base_root(), path, name, CONFIG_LIMIT).decode("utf-8", "replace")
    try:
        raw = read_small(base_root(), path, "tokenizer_config.json", 16 * CONFIG_LIMIT)
        config = parse_json(raw, "tokenizer_config.json", strict=False)
    except Refused:
        return ""
    return default_template(config)


def shapes_of(base: BaseModel) -> BaseShapes:
    """The base's layers: as the running side names them, or by the files where it has not said. From a cache. Raises
    Refused base_broken."""
    if not base.usable:
        problem = base.problem_message if base.problem_code else "missing"
        raise Refused("base_broken", base=base.name, problem=problem)
    shapes = read_shapes(base_root(), base.path, base.model_type, base.signature)
    said = support.layers_of(base)
    return shapes if said is None else shapes.at_run_time(said.layers, said.earlier_names)
