"""Migration operations that may be cut off anywhere and run again: MySQL and MariaDB commit every DDL statement.

A migration that makes tables drops first what an interrupted run of it left (`DropLeftovers`), and their indexes and
constraints belong to them (`options` of `CreateModel`). `common/tests/test_migrations.py` sees to it.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation


def tables(schema_editor: BaseDatabaseSchemaEditor) -> set[str]:
    return set(schema_editor.connection.introspection.table_names())


def columns(schema_editor: BaseDatabaseSchemaEditor, table: str) -> set[str]:
    """Names alone: for the rest Django's introspection parses SQLite's statements."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {schema_editor.quote_name(table)} LIMIT 0")  # noqa: S608
        return {column[0] for column in cursor.description}


def drop(schema_editor: BaseDatabaseSchemaEditor, table: str) -> None:
    schema_editor.execute(schema_editor.sql_delete_table % {"table": schema_editor.quote_name(table)})


class DropLeftovers(Operation):
    """Drop the empty tables that an interrupted run of this migration left."""

    reversible = True

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def state_forwards(self, app_label: str, state: Any) -> None:
        pass

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        found = tables(schema_editor)
        for name in self.names:
            if name not in found:
                continue
            with schema_editor.connection.cursor() as cursor:
                cursor.execute(f"SELECT 1 FROM {schema_editor.quote_name(name)} LIMIT 1")  # noqa: S608
                if cursor.fetchone() is not None:
                    raise RuntimeError(
                        f"The table {name} exists and holds rows that this migration did not write. "
                        "Rename it, then run migrate again."
                    )
            with schema_editor.connection.constraint_checks_disabled():  # two may refer to each other
                drop(schema_editor, name)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        pass

    def describe(self) -> str:
        return "Drop what an interrupted run left"


class CreateModel(migrations.CreateModel):
    """Django's operation, except that going backwards passes over tables that are gone already."""

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        model = from_state.apps.get_model(app_label, self.name)
        joins = [f.remote_field.through._meta.db_table for f in model._meta.local_many_to_many]
        names = [*joins, model._meta.db_table]
        found = tables(schema_editor)
        if found.issuperset(names):
            super().database_backwards(app_label, schema_editor, from_state, to_state)
            return
        for name in names:
            if name in found:
                drop(schema_editor, name)


class AddField(migrations.AddField):
    """Django's operation, except that a column which an interrupted run added or dropped already is passed over."""

    def _exists(self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, state: Any) -> bool:
        model = state.apps.get_model(app_label, self.model_name)
        column = model._meta.get_field(self.name).column
        return column in columns(schema_editor, model._meta.db_table)

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        if not self._exists(app_label, schema_editor, to_state):
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        if self._exists(app_label, schema_editor, from_state):
            super().database_backwards(app_label, schema_editor, from_state, to_state)


class ReplaceIndex(Operation):
    """Another index in the place of one of the same model; what an interrupted run did already is passed over.

    The new one is made before the old one goes: MySQL wants an index for a foreign key at any time.
    """

    reversible = True

    def __init__(self, model_name: str, old: models.Index, new: models.Index) -> None:
        self.model_name, self.old, self.new = model_name, old, new

    def state_forwards(self, app_label: str, state: Any) -> None:
        state.remove_index(app_label, self.model_name.lower(), self.old.name)
        state.add_index(app_label, self.model_name.lower(), self.new)

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        self._replace(to_state.apps.get_model(app_label, self.model_name), schema_editor, self.old, self.new)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        self._replace(to_state.apps.get_model(app_label, self.model_name), schema_editor, self.new, self.old)

    def _replace(
        self, model: Any, schema_editor: BaseDatabaseSchemaEditor, old: models.Index, new: models.Index
    ) -> None:
        connection = schema_editor.connection
        with connection.cursor() as cursor:
            there = connection.introspection.get_constraints(cursor, model._meta.db_table)
        if new.name not in there:
            schema_editor.add_index(model, new)
        if old.name in there:
            schema_editor.remove_index(model, old)

    def describe(self) -> str:
        return f"Replace the index {self.old.name} by {self.new.name}"
