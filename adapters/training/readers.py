"""The files in which trainers tell of a training, each with its reader: what it finds goes into `summary` and `points`.

The keys of the summary are those of `facts.py`. A reader raises Refused or ValueError for a damaged file.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from adapters.failures import Refused
from adapters.formats import mlx
from adapters.formats.config import clean
from adapters.formats.files import parse_json

from .layout import CONFIG
from .model_card import fields_of, tags_of

STATE, ARGS, CARD = "trainer_state.json", "args.json", "README.md"
LOG, SWIFT_LOG = "trainer_log.jsonl", "logging.jsonl"  # of LLaMA-Factory and of ms-swift, written at each step
LIMITS = {STATE: 32 * 2**20, LOG: 32 * 2**20, SWIFT_LOG: 32 * 2**20, ARGS: 2**20, CONFIG: 2**20, CARD: 2**20}
MAX_LINES = 200_000  # of a log
LOSSES = ("loss", "eval_loss")
CURVE_KEYS = (*LOSSES, "learning_rate", "grad_norm", "epoch")
CLOCK = re.compile(r"(?:(\d{1,4}) days?, )?(\d{1,4}):(\d\d):(\d\d)")
WORDED = re.compile(r"(?:(\d{1,4})d ?)?(?:(\d{1,4})h ?)?(?:(\d{1,4})m ?)?(?:(\d{1,5})s)?")  # as in "1h 2m 3s"
Reader = Callable[[bytes, dict[str, Any], dict[int, dict[str, Any]]], None]


def number_of(value: Any) -> float | int | None:
    """A number of a sound size; JSON's whole numbers may be larger than any float, which `isfinite` cannot take."""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value if abs(value) <= 1e15 else None
    return None


def put(summary: dict[str, Any], key: str, value: Any) -> None:
    if value is not None and value != "":
        summary[key] = value


def read_points(entries: Iterable[Any], points: dict[int, dict[str, Any]], renamed: dict[str, str]) -> None:
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        step = entry.get("step", entry.get("current_steps"))
        if type(step) is not int or not 0 <= step < 2**31:
            continue
        point = points.setdefault(step, {"step": step})
        for key in CURVE_KEYS:
            value = entry.get(renamed.get(key, key), entry.get(key))
            number = number_of(value)
            if number is not None or (key in LOSSES and type(value) is float):
                point[key] = number
        elapsed = seconds_of(entry.get("elapsed_time"))
        if elapsed is not None:
            point["elapsed"] = elapsed


def seconds_of(text: Any) -> int | None:
    """Of "1:02:03", "1 day, 1:02:03" or "1h 2m 3s"; None where it is none of them."""
    if not isinstance(text, str) or not 0 < len(text) <= 40:
        return None
    match = CLOCK.fullmatch(text.strip()) or WORDED.fullmatch(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def from_state(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    state = parse_json(data, STATE, strict=False)
    if not isinstance(state, dict):
        raise ValueError(STATE)
    history = state.get("log_history")
    read_points(history if isinstance(history, list) else [], points, {})
    for key, source in (
        ("steps", "global_step"), ("max_steps", "max_steps"), ("epochs", "epoch"), ("best_metric", "best_metric"),
        ("best_step", "best_global_step"), ("batch_size", "train_batch_size"),
    ):  # fmt: skip
        put(summary, key, number_of(state.get(source)))


def _lines(data: bytes, name: str) -> list[dict[str, Any]]:
    """One JSON object a line; the last one may be half-written."""
    entries = []
    for line in islice(io.BytesIO(data), MAX_LINES):
        if line.isspace():
            continue
        try:
            entry = parse_json(line, name, strict=False)
        except Refused:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def from_log(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """LLaMA-Factory's log."""
    entries = _lines(data, LOG)
    read_points(entries, points, {"learning_rate": "lr"})
    last = entries[-1] if entries else {}
    put(summary, "trainer", "LLaMA-Factory")
    put(summary, "steps", number_of(last.get("current_steps")))
    put(summary, "max_steps", number_of(last.get("total_steps")))
    put(summary, "epochs", number_of(last.get("epoch")))
    put(summary, "remaining", seconds_of(last.get("remaining_time")))


def from_swift_log(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """ms-swift's log: the step is told as "10/500"; its last line, a summary, has none."""
    entries = []
    for entry in _lines(data, SWIFT_LOG):
        told = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(entry.get("global_step/max_steps", ""))[:32])
        if told:
            entries.append({**entry, "step": int(told[1]), "max_steps": int(told[2])})
    if not entries:
        return
    read_points(entries, points, {})
    put(summary, "trainer", "ms-swift")
    put(summary, "steps", entries[-1]["step"])
    put(summary, "max_steps", entries[-1]["max_steps"])
    put(summary, "epochs", number_of(entries[-1].get("epoch")))
    put(summary, "remaining", seconds_of(entries[-1].get("remaining_time")))


def from_args(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """ms-swift: its arguments."""
    found = parse_json(data, ARGS, strict=False)
    if not isinstance(found, dict):
        raise ValueError(ARGS)
    put(summary, "trainer", "ms-swift")
    dataset = found.get("dataset")
    names = dataset if isinstance(dataset, list) else [dataset]
    put(summary, "dataset", ", ".join(clean(name, 200) for name in names[:10] if isinstance(name, str)))
    model = found.get("model")
    put(summary, "base_model", clean(model, 200) if isinstance(model, str) else None)
    put(summary, "batch_size", number_of(found.get("per_device_train_batch_size")))


def from_config(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """mlx-lm: its arguments, which it keeps beside the adapter; PEFT's config tells nothing of the training."""
    try:
        found = parse_json(data, CONFIG, strict=False)
    except Refused:  # which its validation says
        return
    if not mlx.is_config(found):
        return
    put(summary, "trainer", "mlx-lm")
    for key, source in (("steps", "iters"), ("max_steps", "iters"), ("batch_size", "batch_size"),
                        ("learning_rate", "learning_rate")):  # fmt: skip
        put(summary, key, number_of(found.get(source)))
    for key, source in (("dataset", "data"), ("base_model", "model")):
        name = found.get(source)
        put(summary, key, clean(name, 200) if isinstance(name, str) else None)


def from_card(data: bytes, summary: dict[str, Any], points: dict[int, dict[str, Any]]) -> None:
    """The front matter of a model card."""
    found = fields_of(data)
    for target, source in (("dataset", "datasets"), ("base_model", "base_model"), ("license", "license")):
        if target not in summary and found.get(source):
            put(summary, target, clean(", ".join(found[source][:10]), 200))
    if tags := tags_of(found):
        put(summary, "tags", [clean(tag, 64) for tag in tags[:20]])
    names = {"llama-factory": "LLaMA-Factory", "axolotl": "axolotl", "unsloth": "Unsloth", "trl": "TRL"}
    for tag in found.get("tags", []):
        if tag in names:
            summary.setdefault("trainer", names[tag])


READERS: dict[str, Reader] = {
    LOG: from_log, SWIFT_LOG: from_swift_log, STATE: from_state, ARGS: from_args, CONFIG: from_config,
    CARD: from_card,
}  # fmt: skip
