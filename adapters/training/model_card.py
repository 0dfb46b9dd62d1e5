"""A model card (README.md): its front matter as fields, its text as Markdown. Both were written by anybody.

Linear in the length of the text. Knows neither Django nor the database.
"""

from __future__ import annotations

import codecs
import re

FRONT_MATTER = 65536  # bytes at the beginning of a model card
ITEM = re.compile(r"\s*-\s+(\S.*)$")
ENTRY = re.compile(r"([A-Za-z_][\w-]*):\s*(.*)$")
FENCE = re.compile(r" {0,3}(```+|~~~+)")
# Tags that cards lay out their pages with; Markdown is shown without HTML, and they would be read as text.
TAG = re.compile(
    r"</?(?:img|p|div|span|center|br|a|b|strong|i|em|u|font|sub|sup|h[1-6]|hr|details|summary|picture|source|figure|small)"
    r"(?=[\s/>])[^<>\n]{0,2000}>",
    re.IGNORECASE,
)
ALTERNATIVE = re.compile(r"""\balt\s*=\s*["']([^"'<>]{1,200})["']""", re.IGNORECASE)


def fields_of(data: bytes) -> dict[str, list[str]]:
    """The front matter: `key: value` and `key:` with `- value` lines; nothing deeper of YAML."""
    found: dict[str, list[str]] = {}
    key = ""
    for line in _front_matter(data)[0]:
        item = ITEM.match(line)
        if item and key:
            found[key].append(item.group(1).strip().strip("'\""))
            continue
        entry = ENTRY.match(line)
        if entry:
            key = entry.group(1)
            value = entry.group(2).strip().strip("'\"")
            inner = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
            found[key] = [part.strip().strip("'\"") for part in inner if part.strip()]
    return found


def tags_of(fields: dict[str, list[str]]) -> list[str]:
    """Without those in which PEFT repeats the base's name, or its path."""
    return [tag for tag in fields.get("tags", []) if not tag.startswith("base_model:")]


def text_of(data: bytes) -> str:
    """What follows the front matter, as Markdown, without comments and tags of HTML outside of code."""
    length = _front_matter(data)[1]
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").replace("\r\n", "\n").replace("\0", "\ufffd")
    lines = text.split("\n")[length:]
    return "\n".join(_plain(lines)).strip("\n")


def _front_matter(data: bytes) -> tuple[list[str], int]:
    """The lines between the first line `---` and the next one, and how many lines all that is; none where either is
    missing."""
    start = data.removeprefix(codecs.BOM_UTF8)[:FRONT_MATTER].decode("utf-8", "replace")
    first, *lines = start.split("\n")
    if first.rstrip() != "---":
        return [], 0
    end = next((number for number, line in enumerate(lines) if line.rstrip() == "---"), None)
    return (lines[:end], end + 2) if end is not None else ([], 0)


def _plain(lines: list[str]) -> list[str]:
    found = []
    fence = ""  # of the code block that the line is in
    in_comment = False
    for line in lines:
        begun = FENCE.match(line) if not in_comment else None
        if fence or begun:
            found.append(line)
            if begun and not fence:
                fence = begun.group(1)
            elif begun and begun.group(1).startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        kept, in_comment = _without_comments(line, in_comment)
        if kept.strip() or not line.strip():
            kept = kept if "`" in kept else TAG.sub(_alternative, kept)
        if kept.strip() or not line.strip():  # a line that had nothing else leaves none
            found.append(kept)
    return found


def _without_comments(line: str, in_comment: bool) -> tuple[str, bool]:
    kept: list[str] = []
    at = 0
    while True:
        if in_comment:
            end = line.find("-->", at)
            if end < 0:
                return "".join(kept), True
            at, in_comment = end + 3, False
        begin = line.find("<!--", at)
        if begin < 0:
            return "".join((*kept, line[at:])), False
        kept.append(line[at:begin])
        at, in_comment = begin + 4, True


def _alternative(tag: re.Match[str]) -> str:
    """What an image says of itself; of other tags nothing."""
    if not tag.group(0).lower().startswith("<img"):
        return ""
    found = ALTERNATIVE.search(tag.group(0))
    return found.group(1) if found else "–"
