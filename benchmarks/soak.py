"""2,000 requests and at least 100 adapter switches through the real runner on a tiny model: memory must stay flat.

`python -m benchmarks.soak [--requests 2000]`. Prints resident memory, threads and open files every 200 requests; the
exit status is 1 where memory grew by more than 5 % or 16 MiB after the first quarter, or threads or files grew.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from inference.engine.config import EngineConfig
from inference.engine.model.memory import resident_set
from inference.engine.model.runner import Runner
from inference.engine.tests import tiny
from inference.engine.tests.driver import Driver, adapter, base

ADAPTERS = 12
AT_ONCE = 8


def prepare(folder: Path) -> tuple[Path, list[Path]]:
    model = tiny.write_base(folder / "base", "llama")
    recipes = [tiny.AdapterRecipe(rank=4 + 4 * (i % 4), seed=i) for i in range(ADAPTERS)]
    return model, [tiny.write_adapter(folder / f"a{i}", model, recipe) for i, recipe in enumerate(recipes)]


def run(requests: int, folder: Path) -> int:
    model, adapters = prepare(folder)
    # Room for about four adapters, so that most switches evict one and read another.
    config = EngineConfig(device="cpu", max_context=128, max_batch=AT_ONCE, adapter_bytes=2**20, user_limit=10**6)
    driver = Driver(Runner(config), config)
    specs = [adapter(f"a{number}", folder) for number, folder in enumerate(adapters)]
    reads = 0
    read = driver.runner.read_adapter

    def counted(spec: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(spec)

    driver.runner.read_adapter = counted
    seen: list[tuple[int, int, int]] = []
    started = time.perf_counter()
    for done in range(0, requests, AT_ONCE):
        ids = [f"r{done + i}" for i in range(AT_ONCE)]
        for index, request in enumerate(ids):
            number = (done // AT_ONCE + index // 4) % (ADAPTERS + 1)
            spec = specs[number] if number < ADAPTERS else None
            driver.generate(request, base("tiny", model), spec, user=f"u{index}", max_tokens=6, ignore_eos=True)
        driver.tick()
        driver.until(lambda: not driver.engine.requests.arrivals)
        errors = driver.of("error")
        if errors:
            print("an error:", errors[0])
            return 1
        driver.events.clear()
        if (done // AT_ONCE) % 25 == 24:
            seen.append((resident_set(), threading.active_count(), len(os.listdir("/proc/self/fd"))))
            memory, threads, files = seen[-1]
            print(
                f"{done + AT_ONCE:6} requests {reads:5} loads {memory / 2**20:8.1f} MiB {threads} threads {files} files"
            )
    quarter = seen[len(seen) // 4]
    growth = seen[-1][0] - quarter[0]
    flat = growth <= max(16 * 2**20, quarter[0] // 20) and seen[-1][1:] <= quarter[1:]
    seconds = time.perf_counter() - started
    verdict = "flat" if flat else "NOT FLAT"
    print(f"{requests} requests, {reads} loads in {seconds:.0f} s: memory {growth / 2**20:+.1f} MiB, {verdict}")
    return 0 if flat and reads >= 100 else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(given.requests, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
