"""Rows that came from an older system meet the folders that they are about."""

from __future__ import annotations

from collections import defaultdict

from adapters.identifiers import text_hash
from adapters.models import LoraAdapter


class ImportedRows:
    """Rows without a root, by the last part of the path that the older system had for them."""

    def __init__(self) -> None:
        self.by_name: dict[str, list[tuple[int, str, list[str]]]] = defaultdict(list)
        rows = LoraAdapter.objects.filter(root="").exclude(path="")
        for pk, path, path_hash in rows.values_list("pk", "path", "path_hash"):
            parts = _parts(path)
            if parts:
                self.by_name[parts[-1]].append((pk, path_hash, parts))

    def claim(self, path: str) -> str:
        """The path hash of the one row that means the folder at `path`, "" where none or several could.

        Paths of another machine are compared from their ends: the row with most parts in common is meant.
        """
        if not self.by_name:
            return ""
        parts = _parts(path)
        rows = self.by_name.get(parts[-1], [])
        scored = sorted(((_common(parts, row[2]), row) for row in rows), key=lambda item: -item[0])
        if not scored or len(scored) > 1 and scored[0][0] == scored[1][0]:
            return ""
        pk, path_hash, _ = found = scored[0][1]
        new = text_hash(path)
        if LoraAdapter.objects.filter(pk=pk, path_hash=path_hash).update(path_hash=new) != 1:
            return ""
        rows.remove(found)
        return path_hash


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in {"", "."}]


def _common(one: list[str], other: list[str]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count
