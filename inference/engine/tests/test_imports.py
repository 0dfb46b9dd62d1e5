"""The engine's libraries are imported with less work, and nothing of that is left afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import functools, gc
bounded = functools.lru_cache
from inference.engine import imports
imports.begin()
assert not gc.isenabled()
@functools.lru_cache
def mine(): pass
import transformers.models
from transformers.utils.import_utils import create_import_structure_from_path
imports.end()
found = create_import_structure_from_path.cache_info()
assert found.maxsize is None and found.hits > 0.9 * (found.misses - 2) > 300, found  # each model was found again
assert mine.cache_info().maxsize == 128, "other caches keep their bounds"
assert functools.lru_cache is bounded and gc.isenabled() and gc.get_freeze_count() > 10_000
"""


def test_files_are_read_once_and_everything_is_as_before() -> None:
    project = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=project, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
