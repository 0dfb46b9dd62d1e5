"""Runs as `python -I conversion_child.py TARGET SIZE PARENT` with the pickle as standard input; see `conversion.py`.

Order matters: torch is imported first, then the process gives up what it no longer needs (network, programs, other
files, memory, time), and only then are foreign bytes read, by torch's unpickler that knows tensors alone.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Any

FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "ctypes.dlopen")


PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with(parent: int) -> None:
    """The kernel ends this process with its parent: nobody is left to take the result. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before it could be asked for
            sys.exit(1)


def confine(size: int, target: str) -> None:
    """Limits of the kernel, and an audit hook that ends the process at the first forbidden call."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    memory = used + 3 * size + (256 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + (1 << 20), 2 * size + (1 << 20)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(FORBIDDEN):
            raise PermissionError(event)
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            if arguments[0] != target:
                raise PermissionError(event)

    sys.addaudithook(hook)


def main(target: str, size: int) -> int:
    import io
    import pickle

    import torch
    from safetensors.torch import save_file

    torch.zeros(2).clone()  # what torch sets up on first use happens before the limits
    confine(size, target)
    data = io.BytesIO(sys.stdin.buffer.read(size + 1))
    if len(data.getbuffer()) != size:
        return 6
    try:
        loaded = torch.load(data, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return 3
    except MemoryError:
        return 5
    except Exception:  # noqa: BLE001  (whatever foreign bytes raise, the answer is the same)
        return 6
    if not isinstance(loaded, dict) or not loaded:
        return 4
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in loaded.items()):
        return 4
    if sum(v.numel() * v.element_size() for v in loaded.values()) > 2 * size:  # one storage, many times its size
        return 5
    save_file({k: v.detach().clone().contiguous() for k, v in loaded.items()}, target)
    return 0


if __name__ == "__main__":
    end_with(int(sys.argv[3]))
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
