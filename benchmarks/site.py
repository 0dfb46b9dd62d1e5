"""What pages and calls cost as the portal grows: time and queries by the number of adapters and recorded requests.

    python -m benchmarks.site [--adapters 10 1000 100000] [--requests 1000000] [--plot docs/images/site.svg]

Fills a scratch SQLite database (30 days of requests, recorded as a running portal records them), then asks each page
and call as an operator, and prints one JSON object: milliseconds (middle of `--repeat`) and queries by call and size.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DAYS = 30
CALLS = (
    "/healthz", "/readyz", "/metrics", "/models", "/models/1", "/test", "/chat", "/compare", "/assistants",
    "/monitoring", "/api/lora/models", "/api/lora/models?search=a7", "/api/lora/models?page_size=200",
    "/api/lora/models/1", "/api/inference/targets?search=a7",
    "/v1/models/a1", "/api/usage", "/api/inference/status",
    "/api/monitoring/history?user=all&range=1h", "/api/monitoring/history?user=all&range=24h",
    "/api/monitoring/history?user=all&range=30d", "/api/monitoring/history?model=a1&range=30d",
    "/api/monitoring/history?range=30d", "/api/monitoring/requests?user=all&range=30d",
    "/api/monitoring/requests?user=all&range=30d&which=failed",
)  # fmt: skip


def prepare(folder: Path) -> None:
    """Point Django at scratch places before it is set up."""
    os.environ |= {
        "VAR_DIR": str(folder / "var"), "LORA_ROOTS": str(folder / "adapters"), "LOG_LEVEL": "ERROR",
        "DATABASE_URL": f"sqlite:///{folder / 'site.sqlite3'}", "DEBUG": "true", "ALLOWED_HOSTS": "testserver",
        "DJANGO_SETTINGS_MODULE": "loraportal.settings",
        "SCAN_INTERVAL": "0",  # its models are rows alone, which a scan would find missing
    }  # fmt: skip


def add_adapters(count: int) -> None:
    """Up to `count` adapters `a0`, `a1` …, every tenth of them active, the first ten in any case."""
    from adapters.models import BaseModel, LoraAdapter, Status

    base, _made = BaseModel.objects.get_or_create(
        path_hash="base", defaults={"name": "base", "slug": "base", "path": "/models/base", "key": "b" * 64}
    )
    there = LoraAdapter.objects.count()
    for start in range(there, count, 2000):
        LoraAdapter.objects.bulk_create(
            LoraAdapter(
                name=f"a{number}",
                slug=f"a{number}",
                path_hash=str(number),
                base=base,
                digest=f"{number:064x}",
                status=Status.ACTIVE if number < 10 or number % 10 == 0 else Status.DISCOVERED,
            )
            for number in range(start, min(count, start + 2000))
        )


def record_requests(count: int, adapters: int, users: list[int]) -> None:
    """`count` requests over the last 30 days: few adapters have most of them, one in fifty fails."""
    from inference.measuring import writing
    from inference.measuring.gathering import Measurements

    now = time.time()
    gathering = Measurements()
    for number, at in enumerate(moments(count, now)):
        gathering.request(a_record(number, at, adapters, users))
        if number % 2000 == 1999 or number == count - 1:
            gathering.roll_up()
            for key in [key for key in gathering.rows if now - key[2] > 86_400 * {60: 1, 600: 3}.get(key[0], 31)]:
                del gathering.rows[key]  # what a portal has deleted by now
                gathering.unwritten.discard(key)
            writing.write(gathering)
            gathering.forget(at)


def moments(count: int, now: float) -> Iterator[float]:
    for number in range(count):
        yield now - DAYS * 86_400 * (1 - (number + 1) / count)


def a_record(number: int, at: float, adapters: int, users: list[int]) -> Any:
    from inference.measuring.entries import Record
    from inference.measuring.figures import bucket_of

    adapter = min(adapters - 1, int(random.paretovariate(0.9)) - 1)
    ttft, gap, tokens = random.lognormvariate(-1.5, 0.8), random.lognormvariate(-3.5, 0.3), 5 + number % 400
    total = ttft + gap * tokens
    code = "engine_crashed" if number % 50 == 0 else ""
    stages = {"queue": ttft / 2, "prompt": ttft / 2, "answer": total - ttft}
    return Record(
        at, f"r{number}", users[number % len(users)], 0, f"a{adapter}", f"{adapter:064x}",
        "error" if code else "stop", code,
        total=total, ttft=ttft, stages=stages, gaps={bucket_of(gap): tokens}, gap_seconds=gap * tokens,
        prompt_tokens=10 + number % 2000, cached_tokens=5, completion_tokens=tokens,
    )  # fmt: skip


def measure(client: Any, path: str, repeat: int) -> dict[str, float]:
    from django.db import connection, reset_queries
    from django.test.utils import CaptureQueriesContext

    times = []
    for _ in range(repeat + 1):
        reset_queries()  # Django keeps no more than 9000
        with CaptureQueriesContext(connection) as queries:
            began = time.perf_counter()
            response = client.get(path)
            times.append((time.perf_counter() - began) * 1000)
        if response.status_code != 200:
            raise SystemExit(f"{path}: {response.status_code} {response.content[:300]!r}")
    return {"ms": round(statistics.median(times[1:]), 1), "queries": len(queries)}


def plot(results: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """One line a call: milliseconds by size, on a logarithmic scale."""
    sizes = list(results)
    width, row, left = 760, 20, 400
    calls = list(results[sizes[0]])
    highest = max(found["ms"] for of_size in results.values() for found in of_size.values())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {row * (len(calls) + 2)}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="8" y="14">milliseconds of each call at {", ".join(sizes)} adapters (light to dark)</text>',
    ]
    for at, call in enumerate(calls, 1):
        lines.append(f'<text x="8" y="{row * at + 14}">{call.replace("&", "&amp;")}</text>')
        for shade, size in enumerate(sizes):
            value = results[size][call]["ms"]
            length = (width - left - 60) * value / highest
            colour = ("#9bd3dd", "#3a93a8", "#123f4b")[shade % 3]
            top = row * at + 2 + shade * 5
            lines.append(f'<rect x="{left}" y="{top}" width="{max(1, length):.1f}" height="4" fill="{colour}"/>')
        lines.append(f'<text x="{width - 50}" y="{row * at + 14}">{results[sizes[-1]][call]["ms"]:g} ms</text>')
    path.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, nargs="+", default=[10, 1000, 100_000])
    parser.add_argument("--requests", type=int, default=1_000_000, help="at the largest size; fewer at the others")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    random.seed(1)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        import django

        django.setup()
        from django.contrib.auth.models import User
        from django.core.management import call_command
        from django.test import Client

        call_command("migrate", verbosity=0)
        users = [User.objects.create_user(f"user{number}", password="", is_staff=True).pk for number in range(20)]
        client = Client()
        client.force_login(User.objects.get(username="user0"))
        results: dict[str, Any] = {}
        recorded = 0
        for size in asked.adapters:
            add_adapters(size)
            wanted = asked.requests * size // max(asked.adapters) if size != max(asked.adapters) else asked.requests
            record_requests(wanted - recorded, size, users)
            recorded = wanted
            results[str(size)] = {path: measure(client, path, asked.repeat) for path in CALLS}
        if asked.plot:
            plot(results, asked.plot)
        print(json.dumps({"requests": recorded, "results": results}, indent=1))


if __name__ == "__main__":
    main()
