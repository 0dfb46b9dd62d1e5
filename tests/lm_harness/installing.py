"""A virtual environment with lm-evaluation-harness, made once; torch, Transformers and PEFT are the project's own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent.parent / "requirements-eval.txt"


def ensure(venv: Path) -> Path:
    """The environment's folder of programs. Raises CalledProcessError where it cannot be made."""
    mark = venv / f".complete-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    if not mark.exists():
        sys.stdout.write(f"making {venv} (once, about 0.6 GB)\n")
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True, timeout=300)
        python = str(venv / "bin" / "python")
        [packages] = venv.glob("lib/python3*/site-packages")
        (packages / "project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
        install = [python, "-m", "pip", "install", "--quiet", "--no-input", "-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True, timeout=1800)
        mark.touch()
    return venv / "bin"
