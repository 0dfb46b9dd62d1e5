"""How long a scan of many adapter folders takes, first and again, and what it needs of memory.

    python -m benchmarks.scan [--folders 10000] [--keep FOLDER]

Uses the database of DATABASE_URL through a scratch database beside it (a file for SQLite, `<name>_scan` on MySQL and
MariaDB), writes the folders into a scratch directory, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any


def prepare(folder: Path) -> None:
    """Point Django at scratch places before it is set up."""
    url = os.environ.get("DATABASE_URL", "")
    os.environ["VAR_DIR"] = str(folder / "var")
    os.environ["LORA_ROOTS"] = str(folder / "adapters")
    os.environ["BASE_MODELS_DIR"] = str(folder / "models")
    os.environ["LOG_LEVEL"] = "WARNING"
    if url.startswith("mysql"):
        os.environ["DATABASE_URL"] = f"{url}_scan"
    else:
        os.environ["DATABASE_URL"] = f"sqlite:///{folder / 'scan.sqlite3'}"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraportal.settings")


def create_database() -> None:
    from django.conf import settings

    database = settings.DATABASES["default"]
    if not database["ENGINE"].endswith("mysql"):
        return
    import MySQLdb

    with MySQLdb.connect(
        host=database["HOST"], port=int(database["PORT"] or 3306), user=database["USER"], passwd=database["PASSWORD"]
    ) as connection:
        cursor = connection.cursor()
        cursor.execute(f"DROP DATABASE IF EXISTS `{database['NAME']}`")
        cursor.execute(f"CREATE DATABASE `{database['NAME']}` CHARACTER SET utf8mb4")


def write_folders(root: Path, count: int) -> int:
    """Runs of nine checkpoints and a final adapter each, as HF's Trainer leaves them. Returns how many adapters."""
    from adapters.tests import layouts

    weights = layouts.pack(layouts.lora_tensors())
    config = json.dumps(layouts.config())
    written = 0
    while written < count:
        run = root / f"project-{written // 1000}" / f"run-{written // 10:05d}"
        for step in (*range(50, 500, 50), None):
            if written >= count:
                break
            folder = run / f"checkpoint-{step}" if step else run
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "adapter_config.json").write_text(config)
            (folder / "adapter_model.safetensors").write_bytes(weights)
            if step:
                (folder / "trainer_state.json").write_text(json.dumps(layouts.trainer_state(step, None, run.name)))
                (folder / "optimizer.pt").write_bytes(b"")
            written += 1
    return written


def measure(folders: int, scratch: Path) -> dict[str, Any]:
    prepare(scratch)
    import django

    django.setup()
    create_database()
    from django.core.management import call_command
    from django.db import connection

    from adapters import services
    from adapters.tests import layouts

    call_command("migrate", verbosity=0)
    layouts.base_model(scratch / "models" / layouts.BASE_NAME)
    root = scratch / "adapters"
    if not root.is_dir():
        write_folders(root, folders)
    layouts.age(root)
    base_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    result: dict[str, Any] = {"database": connection.vendor, "folders": folders}
    for name in ("first", "unchanged", "unchanged_again"):
        started = time.perf_counter()
        summary = services.scan(None)
        result[f"{name}_s"] = round(time.perf_counter() - started, 2)
        result[f"{name}_new"] = summary.new
        result[f"{name}_changed"] = summary.changed
        assert summary.found == folders
    result["memory_before_mb"] = base_memory
    result["memory_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="write into this folder and leave it there")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(options.folders, options.keep)))
        return
    with tempfile.TemporaryDirectory(prefix="scan-") as scratch:
        print(json.dumps(measure(options.folders, Path(scratch))))


if __name__ == "__main__":
    main()
