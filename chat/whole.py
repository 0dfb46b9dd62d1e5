"""Whole conversations saved and deleted in few statements, however many messages they have.

While a transaction runs, SQLite lets nobody else write. Python gives the interpreter away with every statement and gets
it back when others let go of it: 5,000 statements hold the lock for seconds on a busy portal, fifty for milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, Max, Min

from .models import Conversation, ConversationQuerySet, Message

ROWS = 100  # of one statement, at most
CHARS = 1_000_000  # about; a server takes statements up to a limit (max_allowed_packet)
OWN_FIELDS = [field for field in Message._meta.concrete_fields if field.name not in ("id", "conversation", "parent")]
CONTENT = [field.name for field in OWN_FIELDS].index("content")


@dataclass(frozen=True)
class Whole:
    """A new conversation with all its messages.

    `parents`: for each message the place of its parent among `messages`; `leaf`: the place of the branch's end.
    """

    conversation: Conversation
    messages: Sequence[Message]
    parents: Sequence[int | None]
    leaf: int


def insert_all(new: Sequence[Whole]) -> None:
    """Save all of them, or nothing."""
    prepared = [(one, [_row(message) for message in one.messages]) for one in new]  # before anybody has to wait
    with transaction.atomic():
        for one, rows in prepared:
            _insert(one, rows)


def _row(message: Message) -> list[Any]:
    return [field.get_db_prep_save(getattr(message, field.attname), connection) for field in OWN_FIELDS]


def _insert(new: Whole, rows: list[list[Any]]) -> None:
    conversation = new.conversation
    conversation.save()
    if not rows:
        return
    for batch in _batches(rows):
        _insert_rows(conversation.pk, batch)
    ids = _ids(conversation)
    pairs = [(pk, ids[parent]) for pk, parent in zip(ids, new.parents, strict=True) if parent is not None]
    for start in range(0, len(pairs), ROWS):
        _set_parents(pairs[start : start + ROWS])
    conversation.leaf_id = ids[new.leaf]
    conversation.save(update_fields=["leaf"])


def delete(conversations: ConversationQuerySet) -> int:
    """With all their messages; returns how many there were."""
    with transaction.atomic():
        ids = list(conversations.order_by().values_list("pk", flat=True))
        messages = Message.objects.filter(conversation__in=ids)
        Conversation.objects.filter(pk__in=ids).update(leaf=None)
        messages.update(parent=None)  # MySQL looks at each row by itself: no child may go after its parent
        messages._raw_delete(messages.db)
        Conversation.objects.filter(pk__in=ids).delete()
    return len(ids)


def _batches(rows: list[list[Any]]) -> Iterator[list[list[Any]]]:
    batch: list[list[Any]] = []
    chars = 0
    for row in rows:
        if batch and (len(batch) == ROWS or chars + len(row[CONTENT]) > CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(row)
        chars += len(row[CONTENT])
    yield batch


def _insert_rows(conversation_id: int, rows: list[list[Any]]) -> None:
    columns = ["conversation_id", *(str(field.column) for field in OWN_FIELDS)]
    names = ", ".join(map(connection.ops.quote_name, columns))
    values = f"({', '.join(['%s'] * (1 + len(OWN_FIELDS)))})"
    sql = f"INSERT INTO {_table()} ({names}) VALUES {', '.join([values] * len(rows))}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [value for row in rows for value in (conversation_id, *row)])


def _ids(conversation: Conversation) -> Sequence[int]:
    """In the order of insertion. MySQL hands none back, and may leave gaps where others insert too."""
    found = conversation.messages.order_by().aggregate(low=Min("pk"), high=Max("pk"), count=Count("pk"))
    if found["high"] - found["low"] + 1 == found["count"]:
        return range(found["low"], found["high"] + 1)
    return list(conversation.messages.order_by("pk").values_list("pk", flat=True))


def _set_parents(pairs: list[tuple[int, int]]) -> None:
    """Of (message, parent)."""
    key, parent = map(connection.ops.quote_name, ("id", "parent_id"))
    cases, ids = " ".join(["WHEN %s THEN %s"] * len(pairs)), ", ".join(["%s"] * len(pairs))
    sql = f"UPDATE {_table()} SET {parent} = CASE {key} {cases} END WHERE {key} IN ({ids})"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [value for pair in pairs for value in pair] + [pk for pk, _parent in pairs])


def _table() -> str:
    return str(connection.ops.quote_name(Message._meta.db_table))
