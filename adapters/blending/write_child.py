"""Runs as `python -I write_child.py FOLDER NAME SIZE PARENT` with a plan as JSON on standard input; see `writing.py`.
FOLDER is an open descriptor, NAME the safetensors file to write in it, of SIZE bytes.

Modules are written one after another, so that memory holds one of them. One line of JSON says how it ended:
`{"overall": E, "worst": E, "layer": PATH}` (relative Frobenius norms of what was left out) or `{"refused": CODE}`.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from typing import Any

import numpy as np

MEMORY = 256 << 20  # bytes of address space beyond what one module takes
SECONDS = 1800  # of processor time
CHUNK = 16 << 20
TYPES = {"F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}


class Refused(Exception):  # noqa: N818
    pass


def confine(size: int, modules: list[dict[str, Any]]) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    largest = max((each["inputs"] + each["outputs"]) * sum(s["rank"] for s in each["sources"]) for each in modules)
    memory = used + 12 * 8 * largest + MEMORY  # (a decomposition holds several copies in fp64)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def read(descriptor: int, place: list[Any], shape: tuple[int, int]) -> Any:
    """A tensor of a member's file in fp32."""
    offset, kind = place
    number, width = TYPES[kind]
    left = shape[0] * shape[1] * width
    data = bytearray()
    while left:
        piece = os.pread(descriptor, min(left, CHUNK), offset)
        if not piece:
            raise Refused("store_damaged")
        data += piece
        offset += len(piece)
        left -= len(piece)
    values = np.frombuffer(data, dtype=number)
    if kind == "BF16":
        values = (values.astype("<u4") << 16).view("<f4")
    return values.astype("<f4").reshape(shape)


def joined(module: dict[str, Any], files: list[int]) -> tuple[Any, Any]:
    """A (rank, inputs) and B (outputs, rank) of all members side by side, in fp32."""
    a, b = [], []
    for source in module["sources"]:
        descriptor = files[source["file"]]
        a.append(read(descriptor, source["a"], (source["rank"], module["inputs"])))
        b.append(read(descriptor, source["b"], (module["outputs"], source["rank"])) * np.float32(source["factor"]))
    return np.concatenate(a), np.concatenate(b, axis=1)


def reduced(a: Any, b: Any, rank: int) -> tuple[Any, Any, float, float]:
    """The nearest pair of this rank (Eckart, Young 1936), the square of what it leaves out, and that of all of B·A.

    B = Qb Rb and Aᵀ = Qa Ra, so the singular values of B·A are those of the small Rb Raᵀ.
    """
    qb, rb = np.linalg.qr(b.astype(np.float64))
    qa, ra = np.linalg.qr(a.T.astype(np.float64))
    u, s, vt = np.linalg.svd(rb @ ra.T)
    root = np.sqrt(s[:rank])
    small_b, small_a = (qb @ u[:, :rank]) * root, root[:, None] * (vt[:rank] @ qa.T)
    return small_a, small_b, float(np.sum(s[rank:] ** 2)), float(np.sum(s**2))


def write(file: Any, values: Any) -> None:
    values = np.ascontiguousarray(values, dtype="<f4")
    if not np.isfinite(values).all():
        raise Refused("weights_nonfinite")
    file.write(memoryview(values).cast("B"))


def main(name: str, size: int) -> dict[str, Any]:
    plan = json.load(sys.stdin)
    np.linalg.svd(np.linalg.qr(np.eye(2))[0])  # what the library sets up on first use happens before the limits
    confine(size, plan["modules"])
    left_out = whole = worst = 0.0
    layer = ""
    try:
        with open(name, "xb") as file:
            file.write(bytes.fromhex(plan["head"]))
            for module in plan["modules"]:
                a, b = joined(module, plan["files"])
                if plan["reduce"]:
                    if not (np.isfinite(a).all() and np.isfinite(b).all()):
                        raise Refused("weights_nonfinite")
                    a, b, missing, all_of_it = reduced(a, b, module["rank"])
                    left_out, whole = left_out + missing, whole + all_of_it
                    share = math.sqrt(missing / all_of_it) if all_of_it else 0.0
                    if share > worst:
                        worst, layer = share, module["path"]
                write(file, a)
                write(file, b)
            file.flush()
            os.fsync(file.fileno())
    except Refused as refused:
        return {"refused": str(refused)}
    except (MemoryError, np.linalg.LinAlgError):
        return {"refused": "memory"}
    except OSError as error:
        return {"refused": "space", "errno": error.errno}
    return {"overall": math.sqrt(left_out / whole) if whole else 0.0, "worst": worst, "layer": layer}


def end_with(parent: int) -> None:
    """The kernel ends this process with its parent. Linux only."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails with EFBIG instead
    end_with(int(sys.argv[4]))
    os.fchdir(int(sys.argv[1]))  # wherever its path leads by now
    sys.stdout.write(json.dumps(main(sys.argv[2], int(sys.argv[3]))))
