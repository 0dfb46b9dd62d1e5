"""Runs as `python -I conversion_child.py FOLDER TARGET SIZE PARENT` with the pickle as standard input; see
`conversion.py`. FOLDER is an open descriptor, TARGET the name of the file to write in it.

Order matters: torch is imported first, then the process gives up what it no longer needs (network, programs, other
files, memory, time), and only then are foreign bytes read, by torch's unpickler that knows tensors alone.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from typing import Any

FORBIDDEN = (
    "socket.", "subprocess.", "ctypes.dlopen", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.kill",
    "os.chdir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

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
        if event == "open" and arguments[2] & WRITING and arguments[0] != target:
            raise PermissionError(event)

    sys.addaudithook(hook)


def main(target: str, size: int) -> int:
    gc.disable()  # an import leaves no garbage
    import io
    import pickle

    import torch
    from safetensors.torch import save_file

    gc.freeze()
    gc.enable()
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
    loaded, inside = unwrapped(loaded, torch.Tensor)
    if not loaded:
        return 7 if inside else 4
    if sum(v.numel() * v.element_size() for v in loaded.values()) > 2 * size:  # one storage, many times its size
        return 5
    said = {"unwrapped": inside} if inside else None
    save_file({k: v.detach().clone().contiguous() for k, v in loaded.items()}, target, metadata=said)
    return 0


def unwrapped(loaded: Any, tensor: type) -> tuple[dict[str, Any], str]:
    """(the mapping of tensors, the key that it lay under): whole checkpoints hold it as their `state_dict`, beside
    counters and settings. An empty mapping where there is none; with a key, where there are several."""

    def is_weights(value: Any) -> bool:
        if not isinstance(value, dict) or not value:
            return False
        return all(isinstance(k, str) and isinstance(v, tensor) for k, v in value.items())

    inside = ""
    for _ in range(3):
        if is_weights(loaded):
            return loaded, inside
        if not isinstance(loaded, dict):
            break
        found = [key for key, value in loaded.items() if isinstance(key, str) and isinstance(value, dict) and value]
        weights = [key for key in found if is_weights(loaded[key])] or found
        if len(weights) != 1 or any(isinstance(value, tensor) for value in loaded.values()):
            return {}, weights[0][:100] if len(weights) > 1 else ""
        inside = weights[0][:100]
        loaded = loaded[weights[0]]
    return {}, ""


if __name__ == "__main__":
    folder, target, size, parent = sys.argv[1:]
    end_with(int(parent))
    os.fchdir(int(folder))  # wherever its path leads by now
    sys.exit(main(target, int(size)))
