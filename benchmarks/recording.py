"""What measuring costs: the same requests with and without it, block by block in one run.

    python -m benchmarks.recording [--blocks 12] [--requests 64] [--tokens 64]

The engine is the fake one, which computes nothing: its throughput is many times a model's, and so is the share of
measuring. Prints one JSON object: processor seconds of the web process and of the engine's for each token, what
measuring adds to them, and that as a share of the time for a token at `--rate` tokens a second of a real model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from .site import prepare

AT_ONCE = 16


def nothing(*_given: Any) -> None:
    pass


async def block(grant: Any, target: Any, requests: int, tokens: int, measured: bool) -> float:
    """Processor seconds of this process, all threads, for a token."""
    from inference.engine.params import SamplingParams
    from inference.gateway import asking
    from inference.measuring.recorder import recorder
    from inference.measuring.trace import RequestTrace

    async def some(count: int) -> None:
        for _ in range(count):
            question = asking.Question(target, SamplingParams(max_tokens=tokens), prompt="hello")
            await asking.answer(grant, question)

    off = [mock.patch.object(RequestTrace, "seen", nothing), mock.patch.object(recorder, "post", nothing)]
    for patch in off * (not measured):
        patch.start()
    began = time.process_time()
    await asyncio.gather(*[some(requests // AT_ONCE) for _ in range(AT_ONCE)])
    if measured:
        await asyncio.to_thread(recorder.flush)
    spent = time.process_time() - began
    for patch in off * (not measured):
        patch.stop()
    return spent / (requests * tokens)


async def run(asked: argparse.Namespace, grant: Any, target: Any) -> dict[str, Any]:
    spent: dict[bool, list[float]] = {True: [], False: []}
    await block(grant, target, asked.requests, asked.tokens, True)  # everything is started
    for number in range(asked.blocks):
        for measured in (True, False) if number % 2 else (False, True):
            spent[measured].append(await block(grant, target, asked.requests, asked.tokens, measured))
    on, off = min(spent[True]), min(spent[False])  # what else the machine did only adds
    return {
        "us_per_token": {"measured": round(on * 1e6, 2), "not_measured": round(off * 1e6, 2)},
        "added_us_per_token": round((on - off) * 1e6, 2),
        "share_of_a_token": round((on - off) * asked.rate, 5),
        "rate": asked.rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument(
        "--rate", type=float, default=500.0, help="tokens a second of a real model, all answers together"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        os.environ |= {"ENGINE_RUNNER": "inference.engine.fake:FakeRunner", "USER_REQUESTS_PER_MINUTE": "0"}
        import django

        django.setup()
        from django.contrib.auth.models import User
        from django.core.management import call_command

        from accounts.grants import Grant
        from inference.gateway.targets import Target
        from inference.manager import close_manager

        call_command("migrate", verbosity=0)
        user = User.objects.create_user("user", password="")
        target = Target("base", "base", {"key": "b" * 64, "path": "/nowhere", "name": "base"})
        try:
            print(json.dumps(asyncio.run(run(asked, Grant(user.pk), target)), indent=1))
        finally:
            close_manager()


if __name__ == "__main__":
    main()
