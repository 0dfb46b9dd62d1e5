"""`python -m tests.lm_harness [words for pytest]`: install the harness where it is missing, then run the contracts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .installing import ensure

PROJECT = Path(__file__).resolve().parent.parent.parent
LONGEST = 3000  # seconds


def main() -> int:
    given = os.environ.get("LORAPORTAL_LM_EVAL", "")  # an environment that has it already
    programs = Path(given) if given else ensure(PROJECT / Path(os.environ.get("VAR_DIR") or "var") / "lm-eval-venv")
    command = [
        sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "tests/lm_harness/contracts.py", *sys.argv[1:],
    ]  # fmt: skip
    environment = {**os.environ, "LORAPORTAL_LM_EVAL": str(programs)}
    return subprocess.run(command, cwd=PROJECT, env=environment, timeout=LONGEST, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
