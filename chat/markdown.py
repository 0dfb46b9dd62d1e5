"""A conversation as Markdown for people, and back.

A comment, invisible where Markdown is rendered, stands before each part: texts may hold any heading themselves. Of
Markdown without such comments the headings of the second level part the messages.
"""

from __future__ import annotations

import re
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import override

from common.api import ApiError

from .flows import branch
from .models import Conversation

MARK = re.compile(r"^<!-- (system|user|assistant)(?: ([^\s<>]{1,128}))? -->$")
MARK_IN_TEXT = re.compile(r"^(\\*<!-- (?:system|user|assistant)\b)", re.MULTILINE)
ESCAPED = re.compile(r"^\\(\\*<!-- (?:system|user|assistant)\b)", re.MULTILINE)
PEOPLE = {"user", "human", "me"}


def markdown(conversation: Conversation) -> str:
    """The branch that is shown."""
    parts = [f"# {conversation.title or _('Conversation')}"]
    if conversation.system:
        parts.append("<!-- system -->\n> " + conversation.system.replace("\n", "\n> "))
    for message in branch(conversation, conversation.leaf_id):
        who = _("You") if message.role == "user" else message.target_name or _("Answer")
        mark = f"{message.role} {message.target}" if message.target else message.role
        parts.append(f"<!-- {mark} -->\n## {who}\n\n" + MARK_IN_TEXT.sub(r"\\\1", message.content))
    return "\n\n".join(parts) + "\n"


def parse(text: str) -> dict[str, Any]:
    """What an export as JSON of the same branch holds. Raises ApiError 400 where no message is found."""
    lines = text.replace("\r\n", "\n").split("\n")
    marked = any(MARK.match(line) for line in lines)
    title, system = "", ""
    messages: list[dict[str, Any]] = []
    for head, body in (_parts_by_marks if marked else _parts_by_headings)(lines):
        if head is None:
            heading = next((line for line in body if line.startswith("# ")), "")
            title = heading[2:].strip()[:200]
            if not marked:
                system = _unquoted(body)
        elif head[0] == "system":
            system = _unquoted(body)
        else:
            messages.append(_message(head, body, len(messages)))
    if not messages:
        raise ApiError("invalid", _("This file is not an exported conversation."), 400, "markdown")
    target = next((item["target"] for item in reversed(messages) if item["target"]), "")
    return {"title": title, "system": system, "target": target, "messages": messages}


Head = tuple[str, str, str]  # role, slug, name


def _parts_by_marks(lines: list[str]) -> list[tuple[Head | None, list[str]]]:
    parts: list[tuple[Head | None, list[str]]] = [(None, [])]
    for line in lines:
        found = MARK.match(line)
        if found:
            parts.append(((found[1], found[2] or "", ""), []))
        elif parts[-1][0] is not None and not parts[-1][1] and line.startswith("## "):
            role, slug, _name = parts[-1][0]
            parts[-1] = ((role, slug, line[3:].strip()), [""])
        else:
            parts[-1][1].append(line)
    return parts


def _parts_by_headings(lines: list[str]) -> list[tuple[Head | None, list[str]]]:
    people = set(PEOPLE)
    for language in ("en", "zh-hans"):
        with override(language):
            people.add(_("You").lower())
    parts: list[tuple[Head | None, list[str]]] = [(None, [])]
    for line in lines:
        if line.startswith("## "):
            name = line[3:].strip()
            parts.append((("user" if name.lower() in people else "assistant", "", name), []))
        else:
            parts[-1][1].append(line)
    return parts


def _unquoted(lines: list[str]) -> str:
    return "\n".join(line[1:].removeprefix(" ") for line in lines if line.startswith(">"))


def _message(head: Head, body: list[str], index: int) -> dict[str, Any]:
    role, slug, name = head
    content = ESCAPED.sub(r"\1", "\n".join(body).strip("\n"))
    of_model = {"target": slug, "target_name": name[:255]} if role == "assistant" else {"target": "", "target_name": ""}
    return {"id": index + 1, "parent": index or None, "role": role, "content": content, **of_model}
