"""The older system's table, whatever its columns are called: read row by row, written back column by column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from .operations import KEPT

# The first of these names that the table has is taken.
COLUMNS = {
    "id": ("id", "model_id", "lora_id"),
    "name": ("name", "model_name", "lora_name", "display_name", "title"),
    "path": ("path", "lora_path", "model_path", "adapter_path", "output_dir", "output_path", "dir", "directory"),
    "base": ("base_model", "base_model_name", "base_model_path", "base_model_name_or_path", "base"),
    "status": ("status", "state"),
    "is_deployed": ("is_deployed", "deployed", "is_active"),
    "deployed_at": ("deployed_at", "activated_at", "deploy_time"),
    "created_at": ("created_at", "discovered_at", "create_time", "created"),
    "notes": ("description", "notes", "remark", "comment"),
    "error": ("error_message", "error", "failure_reason", "message"),
    "rank": ("rank", "lora_rank", "r"),
    "alpha": ("alpha", "lora_alpha"),
}
MYSQL_TIMESTAMP = 7  # the wire protocol's type number; such a column holds a moment, DATETIME a wall clock
TRUE_WORDS = {"1", "true", "t", "yes", "y", "\x01"}
BATCH = 500


@dataclass(frozen=True)
class LegacyRow:
    """A row as it was found; texts are None where the column is missing or NULL."""

    id: Any
    name: str | None
    path: str | None
    base: str | None
    status: str | None
    is_deployed: bool
    deployed_at: datetime | None
    created_at: datetime | None
    notes: str | None
    error: str | None
    rank: int | None
    alpha: float | None

    @property
    def carried_status(self) -> str:
        """What the status becomes: deployed is active, deploying is discovered; what is unknown goes by the flag."""
        known = {
            "discovered": "discovered", "deploying": "discovered", "deployed": "active", "active": "active",
            "failed": "failed",
        }  # fmt: skip
        word = (self.status or "").strip().lower()
        return known.get(word, "active" if self.is_deployed else "discovered")


class LegacyTable:
    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self.mysql = connection.vendor == "mysql"
        with connection.cursor() as cursor:
            self.exists = KEPT in connection.introspection.table_names(cursor)
            self.described = connection.introspection.get_table_description(cursor, KEPT) if self.exists else []
        names = {column.name.lower(): column.name for column in self.described}
        self.columns = {
            field: next((names[option] for option in options if option in names), "")
            for field, options in COLUMNS.items()
        }

    def quote(self, name: str) -> str:
        return self.connection.ops.quote_name(name)

    def rows(self) -> Iterator[LegacyRow]:
        """All rows in the order of their ids, in pieces."""
        if not self.exists or not self.columns["id"]:
            return
        wanted = {field: column for field, column in self.columns.items() if column}
        listed = ", ".join(self.quote(column) for column in wanted.values())
        key = self.quote(self.columns["id"])
        query = f"SELECT {listed} FROM {self.quote(KEPT)} ORDER BY {key}"  # noqa: S608  (quoted names)
        with self.connection.cursor() as cursor:
            zone = self._read_as_utc(cursor)
            try:
                cursor.execute(query)
                kinds = [column[1] for column in cursor.description]
                while batch := cursor.fetchmany(BATCH):
                    for values in batch:
                        yield self._row(dict(zip(wanted, zip(values, kinds, strict=True), strict=True)))
            finally:
                if zone is not None:
                    cursor.execute("SET time_zone = %s", [zone])

    def _read_as_utc(self, cursor: Any) -> str | None:
        if not self.mysql:
            return None
        cursor.execute("SELECT @@session.time_zone")
        zone = str(cursor.fetchone()[0])
        cursor.execute("SET time_zone = '+00:00'")
        return zone

    def _row(self, found: dict[str, tuple[Any, Any]]) -> LegacyRow:
        def value(field: str) -> Any:
            return found[field][0] if field in found else None

        return LegacyRow(
            id=value("id"),
            name=_text(value("name")),
            path=_text(value("path")),
            base=_text(value("base")),
            status=_text(value("status")),
            is_deployed=_truth(value("is_deployed")),
            deployed_at=self._moment(found.get("deployed_at")),
            created_at=self._moment(found.get("created_at")),
            notes=_text(value("notes")),
            error=_text(value("error")),
            rank=_number(value("rank")),
            alpha=_fraction(value("alpha")),
        )

    def _moment(self, found: tuple[Any, Any] | None) -> datetime | None:
        if found is None or found[0] is None:
            return None
        raw, kind = found
        if isinstance(raw, date) and not isinstance(raw, datetime):
            raw = datetime(raw.year, raw.month, raw.day)  # noqa: DTZ001
        if isinstance(raw, (int, float)):
            try:
                return datetime.fromtimestamp(raw, tz=UTC)
            except (ValueError, OverflowError, OSError):
                return None
        try:
            moment = raw if isinstance(raw, datetime) else parse_datetime(str(_text(raw)))
        except ValueError:
            return None
        if moment is None or timezone.is_aware(moment):
            return moment
        stored_as_moment = self.mysql and kind == MYSQL_TIMESTAMP
        return timezone.make_aware(moment, UTC if stored_as_moment else timezone.get_default_timezone())

    def active_word(self) -> str:
        """What this table calls an adapter that is in use: "deployed", or "active" where it was renamed already."""
        column, table = self.columns["status"], self.quote(KEPT)
        if not column:
            return "deployed"
        with self.connection.cursor() as cursor:
            if self.mysql:
                cursor.execute(f"SHOW COLUMNS FROM {table} LIKE %s", [column])
                kind = str(_text(cursor.fetchone()[1])).lower()
                if kind.startswith("enum"):
                    return "deployed" if "'deployed'" in kind else "active"
            cursor.execute(f"SELECT DISTINCT {self.quote(column)} FROM {table}")  # noqa: S608
            words = {str(_text(row[0])).lower() for row in cursor.fetchall()}
        return "active" if "active" in words and "deployed" not in words else "deployed"

    def update(self, key: Any, values: dict[str, Any]) -> None:
        """Write fields of one row; those that the table has no column for are passed over."""
        known = {self.columns[field]: value for field, value in values.items() if self.columns.get(field)}
        if not known:
            return
        assigned = ", ".join(f"{self.quote(column)} = %s" for column in known)
        where = self.quote(self.columns["id"])
        query = f"UPDATE {self.quote(KEPT)} SET {assigned} WHERE {where} = %s"  # noqa: S608
        with self.connection.cursor() as cursor:
            cursor.execute(query, [*map(self._adapted, known.values()), key])

    def insert(self, values: dict[str, Any]) -> None:
        """A new row; columns that must have a value and are not ours get an empty one of their kind."""
        row: dict[str, Any] = {}
        by_column = {column: field for field, column in self.columns.items() if column}
        for described in self.described:
            field = by_column.get(described.name)
            if field is not None and field in values:
                row[described.name] = self._adapted(values[field])
            elif not described.null_ok and described.default is None and field != "id":
                row[described.name] = self._empty(described)
        listed = ", ".join(self.quote(column) for column in row)
        marks = ", ".join(["%s"] * len(row))
        query = f"INSERT INTO {self.quote(KEPT)} ({listed}) VALUES ({marks})"  # noqa: S608
        with self.connection.cursor() as cursor:
            cursor.execute(query, list(row.values()))

    def _empty(self, described: Any) -> Any:
        kind = self.connection.introspection.get_field_type(described.type_code, described)
        kind = kind[0] if isinstance(kind, tuple) else kind
        if "Integer" in kind or kind in {"FloatField", "DecimalField", "BooleanField"}:
            return 0
        return self._adapted(timezone.now()) if "Date" in kind else ""

    def _adapted(self, value: Any) -> Any:
        if isinstance(value, datetime):
            return self.connection.ops.adapt_datetimefield_value(value)
        return value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "replace").replace("\0", "")
    return str(value).replace("\0", "")


def _truth(value: Any) -> bool:
    if isinstance(value, (bytes, bytearray)):
        return any(value) if not value.isalnum() else value.decode().lower() in TRUE_WORDS
    return str(value).strip().lower() in TRUE_WORDS


def _number(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < 2**31 else None


def _fraction(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 1e300 else None
