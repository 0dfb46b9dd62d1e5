"""Replicas and their router as processes of the tests' own, ended with them whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.portal import DIRECT, free_port, wait_for

READY = 420  # seconds that a replica may take on two cores
# One adapter more than are asked: vLLM's CPU kernels give rows of the base, whose slot is -1, the last slot's adapter
# in a mixed batch (lora/ops/torch_ops of 0.32). As long as that slot is empty it adds nothing.
SERVE = (
    "--served-model-name base --dtype float32 --enable-lora --max-loras 5 --max-lora-rank 32 --max-model-len 1024 "
    "--max-num-seqs 8 --enforce-eager --host 127.0.0.1"
).split()


@dataclass
class Process:
    command: list[str]
    environment: dict[str, str]
    log: Path
    url: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]
        with contextlib.suppress(OSError), DIRECT.open(f"{self.url}/health", timeout=5) as answer:
            return int(answer.status) == 200
        return False

    def kill(self) -> None:
        """With all that it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


def replica(programs: Path, model: Path, folder: Path, log: Path) -> Process:
    port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(folder),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    command = [str(programs / "vllm"), "serve", str(model), *SERVE, "--port", str(port)]
    return Process(command, environment, log, f"http://127.0.0.1:{port}")


def router(programs: Path, replicas: list[Process], log: Path) -> Process:
    port, metrics = free_port(), free_port()
    command = [
        str(programs / "vllm-router"), "--worker-urls", *(one.url for one in replicas), "--host", "127.0.0.1",
        "--port", str(port), "--policy", "round_robin", "--prometheus-port", str(metrics),
    ]  # fmt: skip
    return Process(command, dict(os.environ), log, f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def running(processes: list[Process]) -> Iterator[None]:
    try:
        for process in processes:
            process.start()
        for process in processes:
            wait_for(process.ready, READY, f"{process.url}/health")
        yield
    finally:
        for process in processes:
            process.kill()


def requests_running(url: str) -> float:
    """As a replica says it."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running{"))
