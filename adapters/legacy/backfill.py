"""Rows of the older system's table to ours, and back. Both ways may be repeated; neither deletes anything."""

from __future__ import annotations

from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.utils import timezone

from adapters.identifiers import slugify, text_hash

from .table import LegacyRow, LegacyTable

MAX_ID = 2**63 - 1


def forward(apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Each row of the older table becomes one of ours with the same id; rows that were carried before are skipped."""
    table = LegacyTable(schema_editor.connection)
    if not table.exists:
        return
    adapters, events = apps.get_model("adapters", "LoraAdapter"), apps.get_model("adapters", "AdapterEvent")
    slugs = set(adapters.objects.values_list("slug", flat=True))
    known = set(adapters.objects.values_list("path_hash", flat=True))
    known.update(text_hash("legacy", str(key)) for key in _carried(events).values())
    taken = set(adapters.objects.values_list("pk", flat=True))
    for row in table.rows():
        path_hash = text_hash("legacy", str(row.id))
        if path_hash in known:
            continue
        adapter = _adapter(adapters, row, path_hash, slugs)
        if type(row.id) is int and 0 < row.id <= MAX_ID and row.id not in taken:
            adapter.pk = row.id
        adapter.save(force_insert=True)
        taken.add(adapter.pk)
        events.objects.create(
            adapter_id=adapter.pk,
            adapter_name=adapter.name,
            kind="imported",
            to_status=adapter.status,
            details={"legacy_id": str(row.id), "status": row.status, "is_deployed": row.is_deployed},
        )


def _adapter(adapters: Any, row: LegacyRow, path_hash: str, slugs: set[str]) -> Any:
    path = (row.path or "").strip()
    last = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = ((row.name or "").strip() or last or f"adapter {row.id}")[:255]
    status = row.carried_status
    failed = status == "failed"
    return adapters(
        name=name,
        slug=_slug(name, slugs),
        path=path[:1024],
        path_hash=path_hash,
        status=status,
        failure_code="legacy_failed" if failed else "",
        failure_details={"reason": (row.error or "-")[:300]} if failed else {},
        base_name_recorded=(row.base or "")[:512],
        notes=row.notes or "",
        rank=row.rank,
        alpha=row.alpha,
        activated_at=row.deployed_at if status == "active" else None,
        created_at=row.created_at or timezone.now(),
    )


def _slug(name: str, slugs: set[str]) -> str:
    stem = slug = slugify(name)
    number = 1
    while slug in slugs:
        number += 1
        slug = f"{stem}-{number}"
    slugs.add(slug)
    return slug


def _carried(events: Any) -> dict[int, str]:
    """id of our row -> id in the older table, for all that were carried and still are here."""
    rows = events.objects.filter(kind="imported", adapter_id__isnull=False).values_list("adapter_id", "details")
    return {pk: str(details.get("legacy_id")) for pk, details in rows.iterator()}


def backward(apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """What changed since goes back into the older table; rows that never changed keep their every value."""
    table = LegacyTable(schema_editor.connection)
    if not table.exists:
        return
    adapters, events = apps.get_model("adapters", "LoraAdapter"), apps.get_model("adapters", "AdapterEvent")
    word = table.active_word()
    old = {str(row.id): row for row in table.rows()}
    carried = _carried(events)
    inserted = {(row.name, row.path) for row in old.values()}
    for adapter in adapters.objects.order_by("pk").iterator():
        row = old.get(carried.get(adapter.pk, ""))
        if row is not None:
            if _changed(adapter, row):
                table.update(row.id, _values(adapter, word))
            continue
        values = {
            "name": adapter.name, "path": adapter.path, "base": adapter.base_name_recorded,
            "created_at": adapter.created_at, "rank": adapter.rank, "alpha": adapter.alpha,
            "notes": adapter.notes, **_values(adapter, word),
        }  # fmt: skip
        if (adapter.name, adapter.path) not in inserted:
            table.insert({k: v for k, v in values.items() if v is not None or k == "deployed_at"})


def _changed(adapter: Any, row: LegacyRow) -> bool:
    return bool(adapter.status != row.carried_status)


def _values(adapter: Any, word: str) -> dict[str, Any]:
    active = adapter.status == "active"
    return {
        "status": word if active else adapter.status,
        "is_deployed": 1 if active else 0,
        "deployed_at": adapter.activated_at if active else None,
    }
