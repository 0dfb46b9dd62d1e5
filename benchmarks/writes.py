"""What one account's heavy writes cost everybody else: thirty imports of a long conversation at once.

`python -m benchmarks.writes [--imports 30]`. Starts a portal on DATABASE_URL's kind of database and prints, for calls
of another account, the median, the 99th percentile and the longest time (ms) while nothing else runs and while the
imports do, and the ratio of the percentiles; then what the imports were answered.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import django

QUIET_SECONDS = 10.0
PAUSE = 0.02  # seconds between two calls of one kind: a reader, not a second load
MESSAGES = 5000

Call = Callable[[], int]


def conversation() -> dict[str, Any]:
    turns = [
        {"id": n + 1, "parent": n or None, "role": "assistant" if n % 2 else "user", "content": f"{n:06d}" * 25}
        for n in range(MESSAGES)
    ]
    return {"title": "long", "messages": turns}


def timed(call: Call, until: Callable[[], bool]) -> tuple[list[float], Counter[int]]:
    """Milliseconds of each call, and the statuses."""
    times: list[float] = []
    statuses: Counter[int] = Counter()
    while not until():
        began = time.perf_counter()
        statuses[call()] += 1
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(PAUSE)
    return times, statuses


def measure(calls: dict[str, Call], until: Callable[[], bool]) -> dict[str, tuple[list[float], Counter[int]]]:
    with ThreadPoolExecutor(len(calls)) as pool:
        running = {name: pool.submit(timed, call, until) for name, call in calls.items()}
        return {name: future.result() for name, future in running.items()}


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98] if len(times) > 1 else times[0]


def run(imports: int, folder: Path) -> int:
    from tests.fixtures.portal import DIRECT, running_portal

    body = json.dumps(conversation()).encode()  # once: this process measures
    with running_portal(folder / "var") as portal:
        cookie = portal.login("teammate")
        calls: dict[str, Call] = {
            "/healthz": lambda: portal.call("GET", "/healthz").status,
            "page /models": lambda: portal.call("GET", "/models", Cookie=cookie).status,
            "page /chat": lambda: portal.call("GET", "/chat", Cookie=cookie).status,
            "list by token": lambda: portal.api("GET", "/api/chat/conversations", user="teammate").status,
            "small write": lambda: (
                portal.api("POST", "/api/chat/conversations", {"title": "short"}, user="teammate").status
            ),
        }
        measure(calls, soon(1.0))  # the first calls load code and templates
        quiet = measure(calls, soon(QUIET_SECONDS))
        done = threading.Event()
        answers: Counter[str] = Counter()

        def one_import(_number: int) -> float:
            began = time.perf_counter()
            head = {"Authorization": f"Bearer {portal.token('owner')}", "Content-Type": "application/json"}
            request = urllib.request.Request(f"{portal.url}/api/chat/import", body, head)  # noqa: S310  (our own)
            try:
                with DIRECT.open(request, timeout=300) as answer:
                    answers[str(answer.status)] += 1
            except urllib.error.HTTPError as error:
                code = json.loads(error.read())["error"]["code"]
                answers[f"{error.code} {code}, Retry-After {error.headers['Retry-After']}"] += 1
            return time.perf_counter() - began

        def all_imports() -> float:
            try:
                with ThreadPoolExecutor(imports) as pool:
                    return max(pool.map(one_import, range(imports)))
            finally:
                done.set()

        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(all_imports)
            loaded = measure(calls, done.is_set)
            slowest = last.result()
    print(f"{'':16}{'quiet':>28}{f'{imports} imports':>36}")
    print(f"{'':16}{'p50':>9}{'p99':>9}{'max':>9}  {'p50':>9}{'p99':>9}{'max':>9}{'p99 ratio':>11}  statuses")
    for name in calls:
        (before, _), (during, statuses) = quiet[name], loaded[name]
        rows = [
            statistics.median(before),
            p99(before),
            max(before),
            statistics.median(during),
            p99(during),
            max(during),
        ]
        text = "".join(f"{value:9.1f}" for value in rows[:3]) + "  " + "".join(f"{value:9.1f}" for value in rows[3:])
        print(f"{name:16}{text}{rows[4] / rows[1]:11.1f}  {dict(statuses)}")
    print(f"imports: {dict(answers)}, the last answered after {slowest:.1f} s")
    return 0 if not any(answer.startswith("500") for answer in answers) else 1


def soon(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--imports", type=int, default=30)
    given = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraportal.settings")
    django.setup()
    with tempfile.TemporaryDirectory() as folder:
        return run(given.imports, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
