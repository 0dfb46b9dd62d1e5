"""`python -m tests.real_fleet [words for pytest]`: install vLLM where it is missing, then run the contracts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .installing import ensure, say

PROJECT = Path(__file__).resolve().parent.parent.parent
LONGEST = 3000  # seconds


def main() -> int:
    var_dir = PROJECT / Path(os.environ.get("VAR_DIR") or "var")
    programs = ensure(var_dir / "fleet-venv")
    say("two replicas and a router; a replica takes minutes to be ready")
    command = [
        sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "tests/real_fleet/contracts.py", *sys.argv[1:],
    ]  # fmt: skip
    environment = {**os.environ, "LORAPORTAL_FLEET_PROGRAMS": str(programs)}
    return subprocess.run(command, cwd=PROJECT, env=environment, timeout=LONGEST, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
