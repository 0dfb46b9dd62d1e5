"""A database that is busy is no fault of the server; a reader does not wait for a writer."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.db.utils import DatabaseErrorWrapper

from common.api import unforeseen
from common.database import deadlocks_retried, dispensable, is_busy, is_deadlock


def sqlite_error(folder: Path, statement: str) -> OperationalError:
    """What Django makes of this statement while another connection holds the lock."""
    holder, other = (sqlite3.connect(folder / "some.sqlite3", timeout=0, isolation_level=None) for _ in range(2))
    holder.execute("BEGIN IMMEDIATE")
    wrapper = DatabaseErrorWrapper(connection if connection.vendor == "sqlite" else SqliteLike())
    try:
        with pytest.raises(OperationalError) as caught, wrapper:
            other.execute(statement)
        return caught.value
    finally:
        holder.close()
        other.close()


class SqliteLike:
    Database = sqlite3


def test_what_is_busy(tmp_path: Path) -> None:
    assert is_busy(sqlite_error(tmp_path, "BEGIN IMMEDIATE"))
    assert not is_busy(sqlite_error(tmp_path, "SELECT * FROM nowhere"))
    assert is_busy(OperationalError(1205, "Lock wait timeout exceeded")) and is_busy(InterfaceError(2006, "gone away"))
    assert not is_busy(OperationalError(1049, "Unknown database")) and not is_busy(OperationalError())
    assert not is_busy(ValueError(1205))
    assert is_deadlock(OperationalError(1213, "Deadlock found")) and not is_deadlock(
        OperationalError(1205, "Lock wait")
    )


def test_only_a_deadlock_is_tried_again() -> None:
    errors: list[Exception] = [OperationalError(1213, "Deadlock found"), OperationalError(1213, "Deadlock found")]

    def work() -> str:
        if errors:
            raise errors.pop()
        return "done"

    with pytest.raises(OperationalError):
        deadlocks_retried(work, 1)
    assert deadlocks_retried(work, 2) == "done"
    errors.append(OperationalError(1205, "Lock wait"))
    with pytest.raises(OperationalError):
        deadlocks_retried(work, 5)


def test_what_a_client_is_told() -> None:
    busy, fault = unforeseen(OperationalError(1205, "Lock wait"), "a view"), unforeseen(ValueError("secret"), "a view")
    assert (busy.code, busy.status, bool(busy.retry_after)) == ("database_busy", 503, True)
    assert (fault.code, fault.status, fault.retry_after) == ("server_error", 500, None)
    assert "secret" not in fault.message


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="one lock for everything is SQLite's")
def test_a_dispensable_write_does_not_wait() -> None:
    def pragma() -> int:
        with connection.cursor() as cursor:
            return int(cursor.execute("PRAGMA busy_timeout").fetchone()[0])

    waits = pragma()
    holder = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    reached = False
    try:
        with dispensable(), connection.cursor() as cursor:
            assert pragma() == 0
            cursor.execute("CREATE TABLE scratch (id INTEGER)")
            reached = True
    finally:
        holder.close()
    assert not reached and pragma() == waits > 0
    with pytest.raises(OperationalError), dispensable(), connection.cursor() as cursor:
        cursor.execute("SELECT * FROM nowhere")
