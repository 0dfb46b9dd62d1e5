"""What a database says when it is only busy or away, and writes that do not wait for others."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection

T = TypeVar("T")

SQLITE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
DEADLOCK = 1213
# Too many connections; lock wait timeout; no server there, connection lost.
MYSQL = {1040, 1203, 1226, 1205, DEADLOCK, 2002, 2003, 2006, 2013}


def is_busy(error: BaseException) -> bool:
    """Whether the same call may well succeed in a moment: another writer was at it, or the server is away."""
    if not isinstance(error, (OperationalError, InterfaceError)):
        return False
    sqlite_code = getattr(error.__cause__, "sqlite_errorcode", None)
    if sqlite_code is not None:
        return sqlite_code & 0xFF in SQLITE
    return bool(error.args) and error.args[0] in MYSQL


def is_deadlock(error: BaseException) -> bool:
    """Whether MySQL ended this transaction so that another could go on; it may be tried again at once."""
    return isinstance(error, OperationalError) and bool(error.args) and error.args[0] == DEADLOCK


def deadlocks_retried(work: Callable[[], T], attempts: int) -> T:
    """What `work`, a whole transaction, returns; it is done again where another one won, `attempts` times in all."""
    for _again in range(attempts - 1):
        try:
            return work()
        except OperationalError as error:
            if not is_deadlock(error):
                raise
    return work()


@contextlib.contextmanager
def dispensable() -> Iterator[None]:
    """A write that a reader's request makes on the side: given up where another writer is at it, instead of waited for.

    Only SQLite has one lock for everything; elsewhere such a write meets nobody. Within a transaction it waits as ever.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    with connection.cursor() as cursor:
        waits = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
        cursor.execute("PRAGMA busy_timeout = 0")
        try:
            yield
        except OperationalError as error:
            if not is_busy(error):
                raise
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {waits}")
