"""How soon an engine that was killed answers again, and how long a look at a base takes: forked from a process that has
imported torch, and started anew.

    python -m benchmarks.restarts [--base var/models/SmolLM2-135M-Instruct] [--rounds 5]

Both ways in turn. Prints one JSON object: seconds (the middle of the rounds) until the engine is ready, until it has
loaded the base and answered, and for a look at the base; their ratios; and the memory of the engine with the base in it
(MiB; forked: with the process that it came from, pages that they share counted once).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from .site import prepare

WAYS = ("forked", "anew")
PATIENCE = 300.0  # seconds


class Engine:
    """A backend; `way` says how its engines start."""

    def __init__(self, way: str, base: Path) -> None:
        import launching
        from inference import forking
        from inference.backends.local import LocalBackend
        from inference.manager import worker_options

        self.way = way
        self.base: Any = {"key": "b" * 64, "path": str(base), "name": base.name}
        self.began = self.ready_after = 0.0
        starter = forking.forks.start if way == "forked" else launching.start
        self.backend = LocalBackend(replace(worker_options(), starter=starter), self.heard)

    def heard(self, event: Any) -> None:
        if event.get("kind") == "engine_started":
            self.ready_after = time.monotonic() - self.began

    def answer(self) -> float:
        """Seconds until one token has come, with the engine's start where none runs."""
        from inference.backends.interface import Request
        from inference.engine.params import SamplingParams

        over = threading.Event()
        events: list[str] = []

        def sink(event: Any) -> bool:
            events.append(event["type"])
            if event["type"] in ("done", "error"):
                over.set()
            return True

        self.began = time.monotonic()
        request = Request("benchmark", self.base, prompt="hello", params=SamplingParams(max_tokens=1))
        self.backend.submit(f"ask-{self.began}", request, sink)
        if not over.wait(PATIENCE) or events[-1] != "done":
            raise SystemExit(f"the engine did not answer: {events[-1:]}")
        return time.monotonic() - self.began

    def kill(self) -> None:
        pid = self.backend.snapshot()["pid"]
        assert pid is not None  # noqa: S101
        os.kill(pid, signal.SIGKILL)
        while self.backend.snapshot()["pid"] == pid:
            time.sleep(0.01)

    def memory(self) -> int:
        """MiB."""
        from inference import forking

        server = forking.forks._server
        pids = [self.backend.snapshot()["pid"], *([server.pid] if self.way == "forked" and server is not None else [])]
        return sum(map(proportional, pids)) // 1024


def proportional(pid: int | None) -> int:
    """KiB of a process, of shared pages its part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def look(base: Path, way: str) -> float:
    from django.test.utils import override_settings

    from inference.base_support import look_at

    began = time.monotonic()
    with override_settings(ENGINE_FORK_SERVER=way == "forked"):
        look_at(str(base))
    return time.monotonic() - began


def run(base: Path, rounds: int) -> dict[str, Any]:
    took: dict[str, dict[str, list[float]]] = {way: {"ready": [], "answered": [], "look": []} for way in WAYS}
    engines = {way: Engine(way, base) for way in WAYS}
    for engine in engines.values():
        engine.answer()  # the first start imports in both ways
    for _round in range(rounds):
        for way, engine in engines.items():
            engine.kill()
            took[way]["answered"].append(engine.answer())
            took[way]["ready"].append(engine.ready_after)
            took[way]["look"].append(look(base, way))
    middle = {way: {what: median(times) for what, times in taken.items()} for way, taken in took.items()}
    return {
        "seconds": {way: {what: round(time, 2) for what, time in times.items()} for way, times in middle.items()},
        "ratios": {what: round(time / middle["forked"][what], 1) for what, time in middle["anew"].items()},
        "memory_mib": {way: engine.memory() for way, engine in engines.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path("var/models/SmolLM2-135M-Instruct"))
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        import django

        django.setup()
        print(json.dumps(run(asked.base.resolve(), asked.rounds)), flush=True)


if __name__ == "__main__":
    main()
