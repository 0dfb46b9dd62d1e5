"""Base models: found under `BASE_MODELS_DIR`, checked by their headers, matched to what adapters recorded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone

from adapters.failures import Refused
from adapters.formats.config import clean
from adapters.formats.files import open_below, parse_json, read_exactly, read_small
from adapters.formats.safetensors import BASE_HEADER_LIMIT
from adapters.identifiers import text_hash, unique_slug
from adapters.models import BaseMapping, BaseModel, LoraAdapter

from . import support
from .shapes import BaseShapes, read_shapes

CONFIG_LIMIT = 2**20
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("spiece.model",))
VOLATILE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "_commit_hash"}
SUFFIXES = ("-unsloth-bnb-4bit", "-bnb-4bit", "-unsloth")  # the same model, packed for training
SAMPLES, SAMPLE_BYTES = 16, 65536
NF4_BYTES = 0.516  # per parameter, with double quantisation: 4 bits + 8/64 + 32/(64*256) bits
OVERHEAD = 350 * 2**20  # the worker process itself


@dataclass(frozen=True)
class Folder:
    """A model folder as it lies on disk."""

    path: str
    name: str
    hub_id: str
    signature: str


def base_root() -> tuple[str, ...]:
    return (os.path.realpath(settings.BASE_MODELS_DIR),)


def find_folders(root: str) -> Iterator[Folder]:
    """Model folders: `name/`, `organisation/name/`, and the hub cache's `models--organisation--name/snapshots/*`."""
    for entry in _folders(root):
        if _is_model(entry.path):
            yield _folder(entry.path, entry.name, "")
        elif entry.name.startswith("models--"):
            hub_id = entry.name.removeprefix("models--").replace("--", "/", 1)
            snapshots = [e for e in _folders(os.path.join(entry.path, "snapshots")) if _is_model(e.path)]
            if snapshots:
                newest = max(snapshots, key=lambda e: e.stat().st_mtime)
                yield _folder(newest.path, hub_id.rpartition("/")[2], hub_id)
        else:
            for deeper in _folders(entry.path):
                if _is_model(deeper.path):
                    yield _folder(deeper.path, deeper.name, f"{entry.name}/{deeper.name}")


def _folders(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            found = [e for e in entries if not e.name.startswith(".") and e.name.isprintable() and e.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda e: e.name)


def _is_model(path: str) -> bool:
    names = set(os.listdir(path)) if os.access(path, os.R_OK | os.X_OK) else set()
    return "adapter_config.json" not in names and (
        "config.json" in names or any(n.endswith(".safetensors") for n in names)
    )


def _folder(path: str, name: str, hub_id: str) -> Folder:
    parts: list[str] = []
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            try:
                info = entry.stat()
            except OSError:
                parts.append(f"{entry.name} gone")
                continue
            # ctime too, since an mtime can be set back. `inference/engine/content.py` has the same formula.
            parts.append(f"{entry.name} {info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}")
    return Folder(path, name, hub_id, text_hash(*parts))


def config_hash(config: dict[str, Any]) -> str:
    """sha256 over the canonical config.json, without what changes when a model is only saved again."""
    kept = {key: value for key, value in config.items() if key not in VOLATILE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
        if row is None:
            row = BaseModel(path_hash=key, path=folder.path, slug=_free_slug(folder.name))
        known = row.key
        _inspect(row, folder)
        row.save()
        if known and row.key != known:
            _forget_proofs(row)
    gone = [row.pk for key, row in rows.items() if key not in seen and not row.missing]
    if gone:
        BaseModel.objects.filter(pk__in=gone).update(missing=True, updated_at=timezone.now())
    return fingerprint()


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
    """A refusal that does not hold any more: another release of Transformers may know the architecture."""
    return row.problem_code == support.CODE and not support.known_refusal(row)


def fingerprint() -> str:
    """Changes whenever what was found about an adapter's base could."""
    rows = BaseModel.objects.order_by("pk").values_list("pk", "signature", "problem_code", "missing")
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
        row.has_chat_template = _has_chat_template(folder.path, names)
        if not any(names.issuperset(group) for group in TOKENIZERS):
            raise Refused("base_tokenizer_missing")
        if reason := support.known_refusal(row):
            raise Refused(support.CODE, reason=reason)
    except Refused as refused:
        row.problem_code, row.problem_details = refused.code, refused.details
    except OSError as error:
        row.problem_code = "unreadable"
        row.problem_details = {"file": folder.name, "reason": os.strerror(error.errno or 0)}


def _config(path: str) -> dict[str, Any]:
    try:
        config = parse_json(read_small(base_root(), path, "config.json", CONFIG_LIMIT), "config.json")
    except Refused as refused:
        if refused.code == "files_missing":
            raise Refused("base_config_missing") from None
        raise
    if not isinstance(config, dict):
        raise Refused("config_malformed", file="config.json", reason="not an object")
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


def _has_chat_template(path: str, names: set[str]) -> bool:
    if names & {"chat_template.jinja", "chat_template.json"}:
        return True
    if "tokenizer_config.json" not in names:
        return False
    try:
        raw = read_small(base_root(), path, "tokenizer_config.json", 16 * CONFIG_LIMIT)
        config = parse_json(raw, "tokenizer_config.json")
    except Refused:
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def content_key(path: str, files: tuple[str, ...]) -> str:
    """sha256 over config.json, the tokenizer, and each weights file's size, header and evenly spread samples.

    Reading gigabytes at every change would take minutes; another training step changes every sample.
    """
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        if os.path.exists(os.path.join(path, name)):
            with open_below(base_root(), path, name) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]
    for name in files:
        with open_below(base_root(), path, name) as file:
            size = os.fstat(file.fileno()).st_size
            length = min(int.from_bytes(read_exactly(file, 8), "little"), BASE_HEADER_LIMIT)
            digest.update(f"{name} {size} {length}".encode())
            digest.update(read_exactly(file, length))
            step = max(1, (size - 8 - length) // SAMPLES)
            for index in range(SAMPLES):
                file.seek(8 + length + index * step)
                digest.update(read_exactly(file, min(SAMPLE_BYTES, step)))
    return digest.hexdigest()


def shapes_of(base: BaseModel) -> BaseShapes:
    """The base's layers, from a cache. Raises Refused base_broken."""
    if not base.usable:
        problem = base.problem_message if base.problem_code else "missing"
        raise Refused("base_broken", base=base.name, problem=problem)
    return read_shapes(base_root(), base.path, base.model_type, base.signature)


class Matcher:
    """Finds the base model that a recorded name means. Reads the tables once; use one per scan."""

    def __init__(self) -> None:
        self.bases = list(BaseModel.objects.all())
        self.by_id = {base.pk: base for base in self.bases}
        self.present = [base for base in self.bases if not base.missing]
        self.mapped = dict(BaseMapping.objects.values_list("recorded_hash", "base_id"))

    def match(self, recorded: str, adapter_config_hash: str = "") -> tuple[BaseModel, bool]:
        """(the base, whether its name agrees). Raises Refused: base_not_recorded, base_not_found, base_ambiguous."""
        mapped = self.by_id.get(self.mapped.get(text_hash(recorded), 0))
        if mapped is not None:
            return mapped, True
        if not recorded:
            if adapter_config_hash:
                by_hash = [b for b in self.present if b.config_hash == adapter_config_hash]
                if len(by_hash) == 1:
                    return by_hash[0], True
            raise Refused("base_not_recorded")
        for wanted, agrees in _names(recorded):
            found = self._named(wanted)
            if len(found) > 1 and adapter_config_hash:
                found = [b for b in found if b.config_hash == adapter_config_hash] or found
            if len(found) == 1:
                return found[0], agrees
            if found:
                raise Refused("base_ambiguous", base=recorded, candidates=", ".join(b.slug for b in found))
        by_hash = [b for b in self.present if adapter_config_hash and b.config_hash == adapter_config_hash]
        if len(by_hash) == 1:
            return by_hash[0], False
        raise Refused("base_not_found", base=recorded)

    def _named(self, wanted: str) -> list[BaseModel]:
        wanted = wanted.casefold()
        exact = [b for b in self.present if b.hub_id.casefold() == wanted]
        if exact:
            return exact
        last = wanted.rpartition("/")[2]
        return [b for b in self.present if last in {b.name.casefold(), b.hub_id.casefold().rpartition("/")[2]}]


def _names(recorded: str) -> list[tuple[str, bool]]:
    """What `recorded` (a hub id, or a path of another machine) may be called here, best first."""
    parts = [part for part in recorded.replace("\\", "/").split("/") if part not in {"", ".", ".."}]
    if not parts:
        return []
    for part in parts:
        if part.startswith("models--"):  # a hub cache: .../models--org--name/snapshots/<commit>
            return [(part.removeprefix("models--").replace("--", "/", 1), True)]
    is_hub_id = len(parts) == 2 and not recorded.startswith(("/", ".", "~")) and "\\" not in recorded
    names = [("/".join(parts) if is_hub_id else parts[-1], True)]
    for suffix in SUFFIXES:
        if parts[-1].lower().endswith(suffix):
            names.append((parts[-1][: -len(suffix)], False))
            break
    return names
