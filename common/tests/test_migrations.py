"""Every migration of the project can be cut off anywhere and run again, whatever the database commits on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.db import migrations
from django.db.migrations.loader import MigrationLoader

from adapters.legacy.operations import AdoptLegacyTable
from common.resumable import AddField, CreateModel, DropLeftovers, ReplaceIndex

AGAIN = (
    AddField, AdoptLegacyTable, CreateModel, DropLeftovers, ReplaceIndex,
    migrations.AlterField, migrations.AlterModelOptions, migrations.RunPython,
)  # fmt: skip


def ours() -> Iterator[tuple[str, migrations.Migration]]:
    loader = MigrationLoader(None)
    for (label, name), migration in sorted(loader.disk_migrations.items()):
        folder = Path(apps.get_app_config(label).path)
        if folder.parent == Path(settings.BASE_DIR):
            yield f"{label}.{name}", migration


@pytest.mark.parametrize("name", [name for name, _ in ours()])
def test_can_be_run_again(name: str) -> None:
    migration = dict(ours())[name]
    other = [operation for operation in migration.operations if type(operation) not in AGAIN]
    assert not other, "common/resumable.py has operations that pass over what is there already"
    made, dropped = set(), set()
    for operation in migration.operations:
        if isinstance(operation, CreateModel):
            table = operation.options.get("db_table", f"{migration.app_label}_{operation.name_lower}")
            made |= {table} | {f"{table}_{field}" for field, kind in operation.fields if kind.many_to_many}
        elif isinstance(operation, DropLeftovers):
            dropped |= set(operation.names)
    assert dropped == made
