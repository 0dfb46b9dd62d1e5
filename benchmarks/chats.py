"""Fifty people chat: what `/healthz` takes meanwhile, and our clock against the clients' own.

    python -m benchmarks.chats [--people 50] [--seconds 15] [--way websocket|http]

Serves a portal of its own over the fake model (30 ms a step), asks it over websockets or by streams of `/v1`, and
prints one JSON object: seconds to the first token as clients saw them and as the page Monitoring tells them, their
ratio and that of whole answers, and milliseconds of `/healthz`, asked every 20 ms by a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from .site import prepare

PROJECT = Path(__file__).parents[1]
STEP = "0.03"  # seconds
TOKENS = 40
SETTLING = 3.0  # seconds in which everybody comes in, before `/healthz` is looked at
WRITTEN = 6.0  # seconds until all that was measured is in the database
PROMPT = "hello there"

Times = list[tuple[float, float]]  # to the first token and to the end, in seconds


class Portal:
    """Served by a process of its own, for one operator with a token."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        prepare(folder)
        os.environ |= {
            "PORT": str(port), "DEBUG": "false", "ALLOWED_HOSTS": "127.0.0.1", "LOG_LEVEL": "WARNING",
            "ENGINE_RUNNER": "inference.engine.fake:FakeRunner", "LORAPORTAL_FAKE_STEP": STEP, "ENGINE_MAX_BATCH": "64",
            "ENGINE_USER_LIMIT": "1000", "CHECK_BASES": "false",
            **{f"{who}_{what}": "0" for who in ("USER", "TOKEN") for what in ("CONCURRENT", "REQUESTS_PER_MINUTE")},
        }  # fmt: skip
        self.secret = self.fill()
        with open(folder / "log", "wb") as log:
            command = [sys.executable, "manage.py", "serve"]
            self.process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT)

    def fill(self) -> str:
        import django

        django.setup()
        from django.contrib.auth.models import User
        from django.core.management import call_command

        from accounts.tokens import issue_token
        from adapters.models import BaseModel

        call_command("migrate", verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        BaseModel.objects.create(
            name="tiny", slug="tiny", path="/models/tiny", path_hash="tiny", key="b" * 64, context_length=2048
        )
        user = User.objects.create_user("operator", password=secrets.token_urlsafe(), is_staff=True)
        return issue_token(user, "benchmark")[1]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    def get(self, path: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=self.headers)
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310  (our own address)
            return json.load(response)

    def wait(self, seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while True:
            try:
                self.get("/healthz")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(15)


async def over_websocket(portal: Portal, number: int, until: float, times: Times) -> None:
    from websockets.asyncio.client import connect

    async with connect(f"ws://127.0.0.1:{portal.port}/ws/generate", additional_headers=portal.headers) as socket:
        while time.monotonic() < until:
            began, first = time.monotonic(), 0.0
            asked = {"targets": ["tiny"], "prompt": PROMPT, "params": {"max_tokens": TOKENS}}
            await socket.send(json.dumps({"type": "generate", "id": secrets.token_hex(8), **asked}))
            while (frame := json.loads(await socket.recv()))["type"] not in ("done", "error"):
                if frame["type"] == "token" and not first:
                    first = time.monotonic() - began
            if frame["type"] == "error":
                raise SystemExit(frame["message"])
            times.append((first, time.monotonic() - began))
            await think(number)


async def over_http(portal: Portal, number: int, until: float, times: Times) -> None:
    body = json.dumps({"model": "tiny", "prompt": PROMPT, "max_tokens": TOKENS, "stream": True}).encode()
    headers = {"Host": "127.0.0.1", **portal.headers, "Content-Length": len(body), "Connection": "close"}
    head = "\r\n".join(["POST /v1/completions HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())])
    while time.monotonic() < until:
        began, first = time.monotonic(), 0.0
        reader, writer = await asyncio.open_connection("127.0.0.1", portal.port)
        writer.write(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + body)
        async for line in reader:
            if line.startswith(b"data: {") and not first:
                first = time.monotonic() - began
        writer.close()
        times.append((first, time.monotonic() - began))
        await think(number)


async def think(number: int) -> None:
    """People do not all ask at the same moment."""
    await asyncio.sleep(0.2 + number % 10 * 0.05)


def look(port: int, seconds: float) -> None:
    """Milliseconds of `/healthz`, one after another, as JSON. The work of the second process."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as response:
            response.read()
        found.append((time.perf_counter() - began) * 1000)
        time.sleep(0.02)
    print(json.dumps(found))


async def chat(portal: Portal, people: int, seconds: float, way: str) -> tuple[Times, list[float]]:
    person = {"websocket": over_websocket, "http": over_http}[way]
    times: Times = []
    await person(portal, 0, time.monotonic() + 0.1, [])  # the engine is there
    until = time.monotonic() + seconds

    async def watch() -> list[float]:
        await asyncio.sleep(SETTLING)
        command = [sys.executable, "-m", "benchmarks.chats", "--look", str(portal.port), str(seconds - SETTLING)]
        looker = await asyncio.create_subprocess_exec(*command, cwd=PROJECT, stdout=subprocess.PIPE)
        return json.loads((await looker.communicate())[0])  # type: ignore[no-any-return]

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(person(portal, number, until, times) for number in range(people)))
    return times, await watching


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--way", choices=("websocket", "http"), default="websocket")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--look", nargs=2, type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.look:
        look(int(asked.look[0]), asked.look[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        portal = Portal(Path(folder), asked.port)
        try:
            portal.wait()
            times, health = asyncio.run(chat(portal, asked.people, asked.seconds, asked.way))
            time.sleep(WRITTEN)
            whole = portal.get("/api/monitoring/history?user=all&range=15m")["whole"]
        finally:
            portal.close()
    first, total = (percentile(list(values), 0.5) for values in zip(*times, strict=True))
    found = {
        "answers": len(times),
        "first_token_p50": {"client": round(first, 4), "portal": whole["ttft_p50"]},
        "ratio": round(whole["ttft_p50"] / first, 3),
        "ratio_of_whole_answers": round(whole["latency_p50"] / total, 3),
        "healthz_ms": {f"p{n}": round(percentile(health, n / 100), 1) for n in (50, 99)},
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
