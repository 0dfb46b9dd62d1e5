"""An older system's database: forward, back, forward again, and cut off at any statement in between."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.executor import MigrationExecutor

from adapters.legacy import backfill

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

MYSQL = """
CREATE TABLE lora_models (
  id INT AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(255) NULL,
  path VARCHAR(500) NULL,
  base_model VARCHAR(255) NULL,
  status ENUM('discovered','deploying','deployed','failed') DEFAULT 'discovered',
  is_deployed BOOLEAN DEFAULT FALSE COMMENT 'x',
  deployed_at TIMESTAMP NULL,
  ollama_name VARCHAR(100) NOT NULL,
  description TEXT NULL,
  created_at DATETIME NULL
) DEFAULT CHARSET=utf8mb4
"""
SQLITE = """
CREATE TABLE lora_models (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR(255), path VARCHAR(500), base_model VARCHAR(255),
  status VARCHAR(20), is_deployed BOOLEAN DEFAULT 0, deployed_at TIMESTAMP, ollama_name VARCHAR(100) NOT NULL,
  description TEXT, created_at DATETIME
)
"""
WHEN = "2025-11-20 03:12:10"
ROWS: list[tuple[Any, ...]] = [
    (
        3,
        "777_20251120_031210",
        "Models/LoRA/777_20251120_031210",
        "Qwen2.5-1.5B",
        "deployed",
        1,
        WHEN,
        "o",
        "客服",
        WHEN,
    ),
    (5, "second", "Models/LoRA/second", "Qwen2.5-1.5B", "deploying", 0, None, "o", None, WHEN),
    (6, "third", None, None, "failed", 0, None, "o", None, None),
    (7, None, "/data/x/last_part", None, "discovered", 0, None, "o", None, None),
    (9, None, None, None, None, None, None, "o", None, None),
    (10, "same", "a/same", "B", None, 1, WHEN, "o", None, None),
    (11, "same", "b/same", "B", "deployed", 0, None, "o", None, None),
]
EXPECTED = {3: "active", 5: "discovered", 6: "failed", 7: "discovered", 9: "discovered", 10: "active", 11: "active"}


def migrate(target: str | None) -> None:
    executor = MigrationExecutor(connection)
    executor.loader.build_graph()
    executor.migrate([("adapters", target)])


def everything() -> None:
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


def forward() -> None:
    """What carries the older rows over, and what came to these tables since; the other applications wait."""
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes("adapters"))


def tables() -> set[str]:
    with connection.cursor() as cursor:
        return set(connection.introspection.table_names(cursor))


def run(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall()) if cursor.description else []


class Kept:
    """The database at a moment. SQLite copies it back in milliseconds; elsewhere migrations lead there, in seconds."""

    def __init__(self, lead: Callable[[], None]) -> None:
        self.lead = lead
        self.copy: sqlite3.Connection | None = None

    def keep(self) -> None:
        if connection.vendor == "sqlite":
            connection.ensure_connection()
            self.copy = sqlite3.connect(":memory:", check_same_thread=False)
            connection.connection.backup(self.copy)

    def restore(self) -> None:
        if self.copy is None:
            self.lead()
            self.keep()
        else:
            connection.ensure_connection()
            self.copy.backup(connection.connection)


def before_the_portal() -> None:
    migrate(None)
    for table in ("lora_models", "lora_models_legacy"):
        run(f"DROP TABLE IF EXISTS {table}")


def older_system() -> None:
    """The database as the older system left it, from a bare one."""
    run(MYSQL if connection.vendor == "mysql" else SQLITE)
    for row in ROWS:
        marks = ", ".join(["%s"] * len(row))
        run(f"INSERT INTO lora_models VALUES ({marks})", *row)  # noqa: S608
    if connection.vendor != "mysql":  # an ENUM cannot hold it
        run("INSERT INTO lora_models VALUES (12, 'odd', 'odd', 'B', 'archived', 0, NULL, 'o', NULL, NULL)")


@pytest.fixture(scope="module")
def bare() -> Kept:
    return Kept(before_the_portal)


@pytest.fixture(scope="module")
def whole() -> Kept:
    return Kept(everything)


@pytest.fixture(scope="module")
def carried() -> Kept:
    """The older system's database after the way forward. It leads there from `legacy`."""
    return Kept(forward)


@pytest.fixture
def kept(whole: Kept) -> Iterator[None]:
    """Whatever becomes of the database, the other tests find it as they need it."""
    whole.keep()
    try:
        yield
    finally:
        if connection.vendor != "sqlite":
            before_the_portal()
        whole.restore()


@pytest.fixture
def legacy(kept: None, bare: Kept) -> None:
    """The database as the older system left it."""
    bare.restore()
    older_system()


def original() -> list[tuple[Any, ...]]:
    return run("SELECT * FROM lora_models ORDER BY id")


def check_carried() -> None:
    from adapters.models import AdapterEvent, LoraAdapter

    rows = {adapter.pk: adapter for adapter in LoraAdapter.objects.all()}
    wanted = EXPECTED if connection.vendor == "mysql" else EXPECTED | {12: "discovered"}
    assert {pk: adapter.status for pk, adapter in rows.items()} == wanted
    assert rows[3].name == "777_20251120_031210"
    assert rows[3].notes == "客服"
    assert rows[3].base_name_recorded == "Qwen2.5-1.5B"
    assert rows[3].activated_at == datetime(2025, 11, 20, 3, 12, 10, tzinfo=UTC)
    assert rows[7].name == "last_part"
    assert rows[9].name == "adapter 9"
    assert rows[6].failure_code == "legacy_failed"
    assert {rows[10].slug, rows[11].slug} == {"same", "same-2"}
    assert AdapterEvent.objects.filter(kind="imported").count() == len(wanted)
    assert not LoraAdapter.objects.active().exists()  # nothing is served before its files were checked


def test_a_fresh_database_has_no_older_table(kept: None, bare: Kept) -> None:
    """First of all: the others begin where this one leads."""
    assert "lora_models_legacy" not in tables()
    migrate(None)
    assert not {"lora_models", "adapters_lease"} & tables()
    bare.keep()
    everything()


def test_forward_back_forward(legacy: None) -> None:
    before = original()
    everything()
    check_carried()
    migrate(None)
    assert "lora_models_legacy" not in tables()
    assert original() == before  # every value, also the ones that we have no column for
    everything()
    check_carried()


def test_what_changed_goes_back(legacy: None, carried: Kept) -> None:
    from adapters.models import LoraAdapter

    carried.restore()
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    LoraAdapter.objects.filter(pk=5).update(status="active", activated_at=now)
    LoraAdapter.objects.filter(pk=3).update(status="discovered", activated_at=None)
    LoraAdapter.objects.create(name="new", slug="new", path="/r/new", path_hash="x" * 64, status="failed")
    migrate(None)
    rows = {row[0]: row[1:] for row in run("SELECT id, status, is_deployed, deployed_at FROM lora_models")}
    assert rows[5][:2] == ("deployed", 1)
    assert str(rows[5][2]).startswith("2026-01-02 03:04:05")
    assert rows[3] == ("discovered", 0, None)
    assert run("SELECT status, is_deployed, ollama_name FROM lora_models WHERE name = 'new'") == [("failed", 0, "")]
    forward()
    assert LoraAdapter.objects.get(name="new").status == "failed"
    assert LoraAdapter.objects.get(pk=5).status == "active"


class Cut(Exception):  # noqa: N818
    """The power went."""


def cut_after(monkeypatch: pytest.MonkeyPatch, statements: int) -> None:
    done = 0
    execute = BaseDatabaseSchemaEditor.execute

    def counted(self: Any, sql: Any, params: Any = ()) -> Any:
        nonlocal done
        done += 1
        if done > statements:
            raise Cut
        return execute(self, sql, params)

    monkeypatch.setattr(BaseDatabaseSchemaEditor, "execute", counted)


FORWARD, BACK = [0, 4, 9, 25], [1, 4, 16]  # statements that go through; each takes a whole migration


@pytest.mark.parametrize("step", FORWARD)
def test_cut_off_on_the_way_forward(legacy: None, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    interrupted(monkeypatch, step, forward)
    forward()
    check_carried()


@pytest.mark.parametrize("step", BACK)
def test_cut_off_on_the_way_back(legacy: None, carried: Kept, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    before = original()
    carried.restore()
    interrupted(monkeypatch, step, lambda: migrate(None))
    migrate(None)
    assert original() == before
    forward()
    check_carried()


def reset() -> None:
    """What the end of the process would do: a transaction that the schema editor left open is rolled back."""
    if connection.in_atomic_block:
        connection.in_atomic_block = connection.needs_rollback = False
        connection.savepoint_ids, connection.atomic_blocks, connection.run_on_commit = [], [], []
        connection.rollback()
        connection.set_autocommit(True)
    connection.enable_constraint_checking()


def interrupted(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    with monkeypatch.context() as patched:
        cut_after(patched, step)
        with pytest.raises(Cut):
            action()
        reset()


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_cut_off_between_rows(legacy: None, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    done = 0
    slug = backfill._slug

    def counted(name: str, slugs: set[str]) -> str:
        nonlocal done
        done += 1
        if done > rows:
            raise Cut
        return slug(name, slugs)

    with monkeypatch.context() as patched:
        patched.setattr(backfill, "_slug", counted)
        with pytest.raises(Cut):
            forward()
    forward()
    check_carried()


def test_two_tables_with_data_are_not_guessed_at(legacy: None) -> None:
    run("CREATE TABLE lora_models_legacy (id INTEGER PRIMARY KEY)")
    with pytest.raises(RuntimeError, match="lora_models_legacy"):
        forward()
    run("DROP TABLE lora_models_legacy")
    forward()
    check_carried()
