"""Compiling and loading `segments.c` with the machine's C compiler; a missing one costs speed, nothing else.

The library is built once for a source, a compiler and a processor, in a folder of the portal's own. It shares torch's
OpenMP threads: torch is loaded first, and the same runtime serves both.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("segments.c")
TILE = 64  # as in segments.c
LoraApply = Callable[..., None]
# No -ffast-math: linked into a library, it would make the whole process flush small numbers to zero.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-fno-math-errno")
OPENMP = "-fopenmp"
COMPILE_TIMEOUT = 120  # seconds
ARGUMENTS = (
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
    ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int,
)  # fmt: skip


@functools.lru_cache(maxsize=4)
def lora_apply(folder: str) -> LoraApply | None:
    """The kernel (see segments.c for its arguments), or None where it cannot be had; the log says why.

    `folder` keeps the built library; "": a private temporary folder, gone with the process.
    """
    named = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")
    compiler = shlex.split(named)
    if not compiler:
        logger.warning("no C compiler: adapters are applied by tensor operations, which is slower")
        return None
    try:
        library = ctypes.PyDLL(str(built(compiler, folder)))  # PyDLL: calls are too short to hand over the GIL for
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        logger.warning("the native kernel could not be built, tensor operations serve: %s", str(detail).strip()[-500:])
        return None
    kernel = library.lora_apply
    kernel.argtypes, kernel.restype = ARGUMENTS, None
    return kernel


def built(compiler: list[str], folder: str) -> Path:
    """Path of the library. Raises OSError, subprocess.SubprocessError."""
    if not folder:
        scratch = tempfile.TemporaryDirectory(prefix="loraportal-native-")
        _kept.append(scratch)
        folder = scratch.name
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    library = place / f"segments-{identity(compiler)}.so"
    if not library.exists():
        part = place / f"{library.name}.{os.getpid()}"
        try:
            try:
                compile_to(compiler, part, (*FLAGS, OPENMP))
            except subprocess.CalledProcessError:
                compile_to(compiler, part, FLAGS)  # a compiler without OpenMP: one thread
            os.replace(part, library)
        finally:
            part.unlink(missing_ok=True)
    return library


def compile_to(compiler: list[str], part: Path, flags: tuple[str, ...]) -> None:
    subprocess.run(  # noqa: S603  (a fixed command, no shell)
        [*compiler, *flags, "-o", str(part), str(SOURCE)],
        check=True, capture_output=True, text=True, timeout=COMPILE_TIMEOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def identity(compiler: list[str]) -> str:
    """Changes with the source, the compiler, the flags and the processor's abilities."""
    made = hashlib.sha256(SOURCE.read_bytes())
    real = Path(shutil.which(compiler[0]) or compiler[0]).resolve()
    made.update(f"{real} {compiler[1:]} {real.stat().st_mtime_ns} {FLAGS} {platform.machine()}".encode())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        made.update("\n".join(sorted({line for line in lines if line.startswith(("flags", "Features"))})).encode())
    except OSError:
        made.update(platform.processor().encode())
    return made.hexdigest()[:16]


_kept: list[tempfile.TemporaryDirectory[str]] = []  # temporary folders live as long as what was loaded from them
