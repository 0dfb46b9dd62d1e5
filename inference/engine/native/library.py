"""Compiling and loading the native kernels with the machine's C compiler; a missing one costs speed, nothing else.

The library is built once for its sources, a compiler and a processor, in a folder of the portal's own. It shares
torch's OpenMP threads: torch is loaded first, and the same runtime serves both.
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
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import launching

logger = logging.getLogger(__name__)

SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("segments.c", "products.c", "attention.c", "norms.c", "matrices.c")
)
HEADERS = tuple(Path(__file__).with_name(name) for name in ("vectors.h", "segments.h"))
TILE = 64  # as in segments.c
FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in matrices.c
HEADS = 4  # as in attention.c
# No -ffast-math: linked into a library, it would make the whole process flush small numbers to zero.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-fno-math-errno", "-ffp-contract=off")
OPENMP = "-fopenmp"
COMPILE_TIMEOUT = 120  # seconds
ADDRESS, COUNT, NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
# As in the sources: arguments, then what comes back.
SIGNATURES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "lora_apply": (
        (ADDRESS, ADDRESS, COUNT, ADDRESS, COUNT, COUNT, ADDRESS, COUNT, ADDRESS, NUMBER), None,
    ),
    "weights_format": ((ADDRESS, COUNT, NUMBER), NUMBER),
    "packed_bytes": ((NUMBER, COUNT, COUNT), COUNT),
    "pack_weights": ((ADDRESS, NUMBER, COUNT, COUNT, ADDRESS, NUMBER), None),
    "base_product": (
        (ADDRESS, NUMBER, COUNT, COUNT, ADDRESS, ADDRESS, COUNT, COUNT, ADDRESS, ADDRESS, ADDRESS, ADDRESS, COUNT,
         ADDRESS, NUMBER), None,
    ),
    "keep_rows": (
        (ADDRESS, COUNT, COUNT, ADDRESS, COUNT, COUNT, ADDRESS, COUNT, COUNT, COUNT, COUNT, ADDRESS, ADDRESS), None,
    ),
    "decode_attention": (
        (ADDRESS, COUNT, COUNT, ADDRESS, ADDRESS, ADDRESS, ADDRESS, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT,
         ctypes.c_float, ADDRESS, ADDRESS, COUNT, NUMBER), None,
    ),
    "load_matrices": ((ADDRESS, ADDRESS, COUNT), NUMBER),
    "rms_norm": ((ADDRESS, COUNT, COUNT, COUNT, ADDRESS, ctypes.c_float, ADDRESS, NUMBER), None),
}  # fmt: skip

UNLOCKED = {"load_matrices", "weights_format", "pack_weights"}  # beside the engine's steps, for milliseconds


class Native:
    """The functions of the C sources beside this file; arguments and meaning stand there.

    They are called with the GIL held: most take some microseconds, less than handing it over. Not so those of UNLOCKED.
    """

    lora_apply: Callable[..., None]
    weights_format: Callable[..., int]
    packed_bytes: Callable[..., int]
    pack_weights: Callable[..., None]
    base_product: Callable[..., None]
    product_beside: Callable[..., None]  # the same beside the engine's steps
    keep_rows: Callable[..., None]
    decode_attention: Callable[..., None]
    rms_norm: Callable[..., None]
    load_matrices: Callable[..., int]

    def __init__(self, file: Path) -> None:
        locked, unlocked = ctypes.PyDLL(str(file)), ctypes.CDLL(str(file))
        for name, (arguments, result) in SIGNATURES.items():
            function = getattr(unlocked if name in UNLOCKED else locked, name)
            function.argtypes, function.restype = arguments, result
            setattr(self, name, function)
        self.product_beside = unlocked.base_product
        self.product_beside.argtypes, self.product_beside.restype = SIGNATURES["base_product"]
        self._scratch = torch.empty(0)

    def scratch(self, floats: int) -> int:
        """The address of at least so many floats, which the next call may write over. For the engine's thread."""
        if self._scratch.numel() < floats:
            self._scratch = torch.empty(floats, dtype=torch.float32)
        return self._scratch.data_ptr()


@functools.lru_cache(maxsize=4)
def native_library(folder: str) -> Native | None:
    """The kernels, or None where they cannot be had; the log says why.

    `folder` keeps the built library; "": a private temporary folder, gone with the process.
    """
    named = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")
    compiler = shlex.split(named)
    if not compiler:
        logger.warning("no C compiler: tensor operations serve, which is slower")
        return None
    try:
        return Native(built(compiler, folder))
    except (OSError, AttributeError, CompilerError, launching.TookTooLongError) as error:
        logger.warning("the native kernels could not be built, tensor operations serve: %s", str(error).strip()[-500:])
        return None


class CompilerError(Exception):
    """What the compiler complained about."""


def built(compiler: list[str], folder: str) -> Path:
    """Path of the library. Raises OSError, CompilerError, TookTooLongError."""
    if not folder:
        scratch = tempfile.TemporaryDirectory(prefix="loraportal-native-")
        _kept.append(scratch)
        folder = scratch.name
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    library = place / f"kernels-{identity(compiler)}.so"
    if not library.exists():
        part = place / f"{library.name}.{os.getpid()}"
        try:
            try:
                compile_to(compiler, part, (*FLAGS, OPENMP))
            except CompilerError:
                compile_to(compiler, part, FLAGS)  # a compiler without OpenMP: one thread
            os.replace(part, library)
        finally:
            part.unlink(missing_ok=True)
    return library


def compile_to(compiler: list[str], part: Path, flags: tuple[str, ...]) -> None:
    words = [*compiler, *flags, "-o", str(part), *map(str, SOURCES)]
    done = launching.run(words, launching.without_secrets(), stdin=b"", timeout=COMPILE_TIMEOUT, folder=".")
    if done.status:
        raise CompilerError(done.errors.decode("utf-8", "replace"))


def identity(compiler: list[str]) -> str:
    """Changes with the sources, the compiler, the flags and the processor's abilities."""
    made = hashlib.sha256(b"".join(file.read_bytes() for file in (*SOURCES, *HEADERS)))
    real = Path(shutil.which(compiler[0]) or compiler[0]).resolve()
    made.update(f"{real} {compiler[1:]} {real.stat().st_mtime_ns} {FLAGS} {platform.machine()}".encode())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        made.update("\n".join(sorted({line for line in lines if line.startswith(("flags", "Features"))})).encode())
    except OSError:
        made.update(platform.processor().encode())
    return made.hexdigest()[:16]


_kept: list[tempfile.TemporaryDirectory[str]] = []  # temporary folders live as long as what was loaded from them
