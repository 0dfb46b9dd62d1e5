"""A request's call to the database on a lent thread, and on a thread and a connection of its own as asgiref has it.

    python -m benchmarks.calls [--calls 2000] [--rounds 9]

Both ask SQLite for one row, in turn in one process. Prints one JSON object: microseconds of processor time for each
call (the middle of the rounds), and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from .site import prepare


async def take(context: Callable[[], Any], calls: int) -> float:
    """Processor seconds of a request with one call."""
    from asgiref.sync import sync_to_async
    from django.contrib.auth.models import User
    from django.db import close_old_connections

    def ask() -> None:
        try:
            User.objects.filter(pk=1).first()
        finally:
            close_old_connections()

    began = time.process_time()
    for _number in range(calls):
        async with context():
            await sync_to_async(ask)()
    return (time.process_time() - began) / calls


def run(calls: int, rounds: int) -> dict[str, Any]:
    from asgiref.sync import ThreadSensitiveContext
    from django.db import connections

    from common.lent_threads import LentThreads, lender

    database = connections.settings["default"]
    sides = (("lent", LentThreads, database["CONN_MAX_AGE"]), ("own", ThreadSensitiveContext, 0))
    spent: dict[str, list[float]] = {"lent": [], "own": []}
    for _round in range(rounds):
        for name, context, database["CONN_MAX_AGE"] in sides:
            spent[name].append(asyncio.run(take(context, max(1, calls // rounds))))
    lender.close()
    found = {name: round(median(times) * 1e6) for name, times in spent.items()}
    return {"us_per_call": found, "ratio": round(median(spent["own"]) / median(spent["lent"]), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0, interactive=False)
        print(json.dumps(run(asked.calls, asked.rounds)))


if __name__ == "__main__":
    main()
