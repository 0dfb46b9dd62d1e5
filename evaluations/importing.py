"""Files of prompts: our own JSONL, CSV, and what trainers evaluate by. A file comes whole or not at all.

JSONL or a JSON list; each entry is one of
- ours: {"messages" or "prompt", "reference", "checks"} (what an export holds);
- chat, as TRL and LLaMA-Factory's "openai" format: {"messages": [..., {"role": "assistant", ...}]}: the last answer is
  the reference, what precedes it is asked;
- alpaca: {"instruction", "input", "output", "system"}; instruction and input are joined by a line break, as
  LLaMA-Factory does;
- sharegpt: {"conversations": [{"from": "human", "value"}, {"from": "gpt", ...}], "system"};
- prompt and completion, as TRL: {"prompt", "completion"}, each a text or messages.
CSV has a first line of names: prompt, system, reference, and checks that take one text: equals, contains, excludes,
pattern.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from common.api import ApiError
from common.numbers import grouped
from common.parsers import loads

from .items import read_item
from .models import Item

SPEAKERS = {
    "system": "system", "developer": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
}  # fmt: skip
TEXT_CHECKS = ("equals", "contains", "excludes", "pattern")
COLUMNS = {"prompt", "system", "reference", *TEXT_CHECKS}
Fields = dict[str, Any]


class NotThisError(Exception):
    """The entry is of none of the forms; the reason is for people."""


def read_file(text: str, kind: str = "auto", checks: list[Any] | None = None) -> list[Item]:
    """All items of a file. `kind`: jsonl, csv or auto; `checks`: of those entries that bring none.

    Raises ApiError 400 whose sentence names the line.
    """
    text = text.removeprefix("\ufeff")
    if kind == "auto":
        kind = "jsonl" if text.lstrip()[:1] in ("{", "[") else "csv"
    found: list[Item] = []
    for line, fields in _csv(text) if kind == "csv" else _json(text):
        if len(found) >= settings.EVALUATION_ITEMS:
            message = _("The file has more than %(limit)s items.") % {"limit": grouped(settings.EVALUATION_ITEMS)}
            raise ApiError("too_many", message, 400, "text")
        if checks and not fields.get("checks"):
            fields = {**fields, "checks": checks}
        try:
            found.append(read_item(fields))
        except ApiError as error:
            raise _at(line, error.message, error.code) from None
    if not found:
        raise ApiError("empty", _("The file has no items."), 400, "text")
    return found


def _at(line: int, reason: str, code: str = "invalid") -> ApiError:
    message = _("Line %(line)s: %(reason)s") % {"line": grouped(line), "reason": reason}
    return ApiError(code, message, 400, "text", extra={"line": line})


def _json(text: str) -> Iterator[tuple[int, Fields]]:
    """(number of its line, the entry as our own form). Of a JSON list the entries count as lines."""
    entries: Iterator[tuple[int, Any]]
    if text.lstrip().startswith("["):
        try:
            whole = loads(text)
        except ValueError:
            raise ApiError("malformed_json", _("The file is not valid JSON."), 400, "text") from None
        entries = enumerate(whole, 1)
    else:
        entries = _lines(text)
    for line, entry in entries:
        try:
            yield line, ours(entry)
        except NotThisError as error:
            raise _at(line, str(error)) from None


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, loads(line)
        except ValueError:
            raise _at(number, _("This is not valid JSON."), "malformed_json") from None


def ours(entry: Any) -> Fields:
    """An entry of any form as our own. Raises NotThisError."""
    if not isinstance(entry, Mapping):
        raise NotThisError(_("An item must be an object."))
    for field, form in FORMS.items():
        if field in entry:
            return form(entry)
    raise NotThisError(_("None of messages, prompt, instruction or conversations was found."))


def _chat(entry: Mapping[str, Any]) -> Fields:
    turns = entry["messages"]
    if "reference" in entry or "checks" in entry or not _ends_with_answer(turns):
        return {name: entry[name] for name in ("messages", "reference", "checks") if name in entry}
    return {"messages": [_turn(one) for one in turns[:-1]], "reference": _content(turns[-1].get("content"))}


def _alpaca(entry: Mapping[str, Any]) -> Fields:
    said = [part for name in ("instruction", "input") if (part := _text(entry, name))]
    return {"messages": _with_system(_text(entry, "system"), "\n".join(said)), "reference": _text(entry, "output")}


def _sharegpt(entry: Mapping[str, Any]) -> Fields:
    turns = entry["conversations"]
    if not isinstance(turns, list) or not all(isinstance(one, Mapping) for one in turns):
        raise NotThisError(_("conversations must be a list of turns."))
    said = []
    for one in turns:
        role = SPEAKERS.get(str(one.get("from", one.get("role"))))
        if role is None:
            raise NotThisError(_("The speaker %(name)s is not known.") % {"name": str(one.get("from"))[:40]})
        said.append({"role": role, "content": _content(one.get("value", one.get("content")))})
    if system := _text(entry, "system"):
        said.insert(0, {"role": "system", "content": system})
    reference = said.pop()["content"] if said and said[-1]["role"] == "assistant" else ""
    return {"messages": said, "reference": reference}


def _prompted(entry: Mapping[str, Any]) -> Fields:
    if "completion" not in entry:
        return {name: entry[name] for name in ("prompt", "reference", "checks") if name in entry}
    completion = entry["completion"]
    reference = _content(completion[-1].get("content")) if _ends_with_answer(completion) else _text(entry, "completion")
    if isinstance(entry["prompt"], list):
        return {"messages": [_turn(one) for one in entry["prompt"]], "reference": reference}
    return {"prompt": entry["prompt"], "reference": reference}


FORMS: dict[str, Callable[[Mapping[str, Any]], Fields]] = {
    "messages": _chat, "conversations": _sharegpt, "instruction": _alpaca, "prompt": _prompted,
}  # fmt: skip


def _ends_with_answer(turns: Any) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[-1], Mapping) and (
        turns[-1].get("role") == "assistant"
    )  # fmt: skip


def _turn(one: Any) -> dict[str, str]:
    if not isinstance(one, Mapping):
        raise NotThisError(_("A message must be an object."))
    role = SPEAKERS.get(str(one.get("role")))
    if role is None:
        raise NotThisError(_("The role %(name)s is not known.") % {"name": str(one.get("role"))[:40]})
    return {"role": role, "content": _content(one.get("content"))}


def _content(value: Any) -> str:
    """A message's text; of parts, those of text together. What is not text cannot be asked."""
    if isinstance(value, list):
        parts = [one.get("text") if isinstance(one, Mapping) and one.get("type") == "text" else None for one in value]
        if all(isinstance(part, str) for part in parts):
            return "\n\n".join(map(str, parts))
        value = None
    if not isinstance(value, str):
        raise NotThisError(_("A message has content that is not text."))
    return value


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NotThisError(_("%(name)s must be a text.") % {"name": name})
    return value


def _with_system(system: str, said: str) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": said}]
    return [{"role": "system", "content": system}, *messages] if system.strip() else messages


def _csv(text: str) -> Iterator[tuple[int, Fields]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    csv.field_size_limit(max(csv.field_size_limit(), settings.DATA_UPLOAD_MAX_MEMORY_SIZE))
    names: list[str] = []
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = [cell.strip().lower() for cell in row]
                if "prompt" not in names or set(names) - COLUMNS or len(set(names)) < len(names):
                    message = _("The first line must name the columns: prompt, and any of %(names)s.") % {
                        "names": ", ".join(sorted(COLUMNS - {"prompt"}))
                    }
                    raise _at(rows.line_num, message, "columns")
                continue
            if len(row) > len(names):
                raise _at(rows.line_num, _("There are more cells than columns."), "columns")
            yield rows.line_num, _of_row(dict(zip(names, row, strict=False)))
    except csv.Error as error:
        raise _at(rows.line_num, str(error), "malformed_csv") from None


def _of_row(row: dict[str, str]) -> Fields:
    checks = [{"kind": kind, "value": row[kind]} for kind in TEXT_CHECKS if row.get(kind, "").strip()]
    messages = _with_system(row.get("system", ""), row.get("prompt", ""))
    return {"messages": messages, "reference": row.get("reference", ""), "checks": checks}
