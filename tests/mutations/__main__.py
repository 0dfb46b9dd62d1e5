"""`python -m tests.mutations [NAME ...]`: take protections away one at a time and see tests fail.

Exit status: 0 where every protection tried has a test that fails without it, 1 where one has none, its text is not
found or its tests do not run, 2 where time ran out before all were tried.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from .catalogue import Mutation, load, table
from .trial import Copy, Outcome, Result


def main(arguments: list[str] | None = None, known: list[Mutation] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these, or all whose name begins so; default: all"
    )
    parser.add_argument("--list", action="store_true", help="name them and stop")
    parser.add_argument("--table", action="store_true", help="print the tables of docs/security.md and stop")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once, each in a copy of its own (default 1)")
    parser.add_argument("--limit", type=float, default=180, help="seconds for the tests of one (default 180)")
    parser.add_argument("--budget", type=float, default=3600, help="seconds in all (default 3600)")
    parser.add_argument("--green", action="store_true", help="the tests are known to pass as they are: begin at once")
    asked = parser.parse_args(arguments)
    listed = load() if known is None else known
    chosen = [one for one in listed if not asked.names or one.name.startswith(tuple(asked.names))]
    if not chosen:
        parser.error("no mutation has such a name")
    if asked.table:
        say(table(chosen).rstrip())
        return 0
    if asked.list:
        for one in chosen:
            say(f"{one.name:28} {one.risk}: {one.protection}")
        return 0
    return report(tried(chosen, max(1, asked.jobs), asked.limit, time.monotonic() + asked.budget, asked.green))


def tried(mutations: list[Mutation], jobs: int, limit: float, deadline: float, green: bool = False) -> list[Result]:
    """First, unless `green`, all the tests with every protection in its place: what fails then says nothing."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(jobs) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(min(jobs, len(mutations))):
            copies.put(Copy(Path(folder) / str(number)))

        def attempt(mutation: Mutation) -> Result:
            copy = copies.get()
            try:
                left = deadline - time.monotonic()
                result = copy.attempt(mutation, min(limit, left)) if left > 0 else Result(mutation, Outcome.LEFT)
                if result.outcome is Outcome.BROKEN and time.monotonic() >= deadline:
                    result = Result(mutation, Outcome.LEFT)
            finally:
                copies.put(copy)
            say(f"{result.outcome.value:18} {result.seconds:6.1f} s  {mutation.name}")
            return result

        if green:
            return list(pool.map(attempt, mutations))
        tests = list(dict.fromkeys(test for one in mutations for test in one.tests))
        copy = copies.get()
        status, tail = copy.run(tests, deadline - time.monotonic())
        copies.put(copy)
        if status != 0:
            say(tail)
            outcome = Outcome.BROKEN if time.monotonic() < deadline else Outcome.LEFT
            return [Result(one, outcome) for one in mutations]
        return list(pool.map(attempt, mutations))


def report(results: list[Result]) -> int:
    for result in results:
        if result.outcome not in (Outcome.BITTEN, Outcome.LEFT):
            one = result.mutation
            say(f"\n{result.outcome.value}: {one.name} ({one.file})\n  {one.risk}: {one.protection}\n{result.tail}")
    counts = {kind: sum(result.outcome is kind for result in results) for kind in Outcome}
    say("\n" + ", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count))
    if counts[Outcome.SURVIVED] or counts[Outcome.STALE] or counts[Outcome.BROKEN]:
        return 1
    return 2 if counts[Outcome.LEFT] else 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
