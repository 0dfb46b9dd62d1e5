"""200 open streams: every one gets its own adapter's text, and the site stays quick for everybody else."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from django.contrib.auth.models import User

from .test_server import Site

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.alone]

STREAMS = 200
TOKENS = 40
STEP = 0.1  # seconds of a step of the engine, which gives every stream a token


@pytest.fixture
def site(tmp_path: Any, registry: SimpleNamespace, operator: User, token_for: Callable[..., str]) -> Iterator[Site]:
    limits = {f"{who}_{what}": "0" for who in ("USER", "TOKEN") for what in ("CONCURRENT", "REQUESTS_PER_MINUTE")}
    site = Site(
        tmp_path,
        token_for(operator, "infer", "operate"),
        ENGINE_RUNNER="inference.engine.fake:FakeRunner",
        ENGINE_MAX_BATCH="256",
        ENGINE_USER_LIMIT="1000",
        LORAPORTAL_FAKE_STEP=str(STEP),
        **limits,
    )
    try:  # the engine starts while other tests still run
        assert site.call("POST", "/v1/completions", {"model": "pirate", "prompt": "go", "max_tokens": 1})[0] == 200
        yield site
    finally:
        site.process.kill()
        site.process.wait()


async def stream(site: Site, model: str) -> str:
    """The text of one streamed answer, read from a raw socket."""
    body = json.dumps({"model": model, "prompt": "go", "max_tokens": TOKENS, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    head = ["POST /v1/completions HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", "Connection: close"]
    head += [f"{name}: {value}" for name, value in site.headers.items()]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    text = ""
    async for line in reader:
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            text += "".join(choice["text"] for choice in chunk["choices"])
    writer.close()
    return text


async def healthz(site: Site) -> float:
    """Seconds until the site answers something that needs nothing but its event loop."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert b"200" in await reader.readline(), site.log.read_text()
    writer.close()
    return time.monotonic() - began


async def test_many_streams(site: Site) -> None:
    models = ["pirate", "poet", "tiny"]
    tasks = [asyncio.create_task(stream(site, models[number % 3])) for number in range(STREAMS)]
    await asyncio.to_thread(site.wait_until, lambda: site.running() == STREAMS)
    lags: list[float] = []
    began = time.monotonic()
    while not all(task.done() for task in tasks):
        lags.append(await healthz(site))
        await asyncio.sleep(0.1)
    elapsed = time.monotonic() - began
    for number, task in enumerate(tasks):
        name = models[number % 3]
        assert task.result() == "".join(f"{name}:{count} " for count in range(TOKENS))[:TOKENS]
    assert len(lags) > 20
    # In parts of the streams' own time: nobody waits for the streams to end. The engine's steps give that time,
    # whatever else the machine does, so this runs alone.
    lags.sort()
    assert lags[len(lags) * 9 // 10] < elapsed / 40 and lags[-1] < elapsed / 10, (elapsed, lags[-10:])
    assert psutil.Process(site.process.pid).memory_info().rss < 600 * 2**20
