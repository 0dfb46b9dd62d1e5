"""The older system's table, put aside and put back by a migration that may be cut off anywhere."""

from __future__ import annotations

from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation

from common.resumable import columns, tables

TABLE = "lora_models"
KEPT = "lora_models_legacy"  # the older system's table while this portal's one is in its place
OUR_COLUMNS = {"path_hash", "group_hash", "digest"}  # no older table has them all


def rename(schema_editor: BaseDatabaseSchemaEditor, old: str, new: str) -> None:
    quote = schema_editor.quote_name
    schema_editor.execute(f"ALTER TABLE {quote(old)} RENAME TO {quote(new)}")


class AdoptLegacyTable(Operation):
    """Put the older system's `lora_models` aside under `lora_models_legacy`; backwards: put it back."""

    reversible = True

    def state_forwards(self, app_label: str, state: Any) -> None:
        pass

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        found = tables(schema_editor)
        if TABLE not in found or OUR_COLUMNS <= columns(schema_editor, TABLE):
            return
        if KEPT in found:
            raise RuntimeError(
                f"Both {TABLE} and {KEPT} hold an older system's data. Rename or drop the one that is "
                "not wanted, then run migrate again."
            )
        rename(schema_editor, TABLE, KEPT)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        found = tables(schema_editor)
        if KEPT in found and TABLE not in found:
            rename(schema_editor, KEPT, TABLE)

    def describe(self) -> str:
        return "Put an older system's adapter table aside"
