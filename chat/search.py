"""Conversations by their words, and where these stand."""

from __future__ import annotations

import re
from collections.abc import Iterable

from django.db.models import Min, Q, QuerySet, Value
from django.db.models.functions import Greatest, Lower, StrIndex, Substr

from .models import ConversationQuerySet, Message

SPACE = re.compile(r"\s+")
BEFORE = 40  # characters of a snippet before what was found
AFTER = 120


def having(rows: ConversationQuerySet, text: str) -> set[int]:
    """Ids of the conversations with `text` in their title or a message; letters' case aside, whatever the collation."""
    found: set[int] = set(_with(rows, "title", text).values_list("pk", flat=True))
    messages = Message.objects.filter(conversation__in=rows)
    return found | set(_with(messages, "content", text).values_list("conversation_id", flat=True))


def _with(rows: QuerySet, field: str, text: str) -> QuerySet:  # type: ignore[type-arg]
    same = Q(**{f"{field}__icontains": text}) | Q(lowered__contains=text.lower())
    return rows.annotate(lowered=Lower(field)).filter(same).order_by()


def snippets(conversations: Iterable[int], text: str) -> dict[int, dict[str, str]]:
    """{conversation: before, match, after} for those with `text` in a message, of the first such message.

    The database cuts: messages may be long.
    """
    found = _with(Message.objects.filter(conversation__in=list(conversations)), "content", text)
    first = found.values("conversation_id").annotate(first=Min("pk")).values_list("first", flat=True)
    at = Greatest(StrIndex(Lower("content"), Value(text.lower())) - BEFORE, Value(1))
    part = Substr("content", at, BEFORE + len(text) + AFTER + 1)
    cut = Message.objects.filter(pk__in=list(first)).annotate(start=at, part=part).order_by()
    rows = cut.values_list("conversation_id", "start", "part")
    return {pk: _parted(part, text, start > 1) for pk, start, part in rows}


def _parted(part: str, text: str, is_within: bool) -> dict[str, str]:
    """On one line; "…" where the message has more."""
    start, end = _span(part, text)
    most = BEFORE + len(text) + AFTER
    before, match, after = (SPACE.sub(" ", one) for one in (part[:start], part[start:end], part[end:most]))
    return {"before": "…" * is_within + before, "match": match, "after": after + "…" * (len(part) > most)}


def _span(part: str, text: str) -> tuple[int, int]:
    """Where `text` stands in `part`, letters' case aside, which may change their number.

    (0, 0) where it does not: a database may know more letters' cases than Python.
    """
    wanted = text.lower()
    for start in range(len(part)):
        if part[start:].lower().startswith(wanted):
            end = start + 1
            while not part[start:end].lower().startswith(wanted):
                end += 1
            return start, end
    return 0, 0
