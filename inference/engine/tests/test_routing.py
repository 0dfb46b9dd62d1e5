"""Many threads ask for many adapters at once: each token's logprobs are those of the adapter asked for, alone."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from inference.engine.config import EngineConfig
from inference.engine.engine import Engine
from inference.engine.intake import Intake
from inference.engine.model.runner import Runner

from . import tiny
from .conftest import Family
from .driver import adapter, base

THREADS = 8
ROUNDS = 6
NAMES = [None, *tiny.RECIPES]


class Desk:
    """An engine on a thread of its own, asked from any thread; each request has its own line of events."""

    def __init__(self, native: bool) -> None:
        config = EngineConfig(device="cpu", max_context=128, max_batch=6, user_limit=99, prefill_chunk=9, native=native)
        self.lines: dict[str, queue.SimpleQueue[Any]] = {}
        runner = Runner(config)
        self.engine = Engine(config, runner, self.send)  # type: ignore[arg-type]
        self.intake = Intake(self.engine)
        self.thread = threading.Thread(target=self.engine.run)
        self.thread.start()

    def send(self, event: dict[str, Any]) -> None:
        line = self.lines.get(event.get("id", ""))
        if line is not None:
            line.put(event)

    def ask(self, request_id: str, family: Family, name: str | None, prompt: str) -> list[tuple[int, float]]:
        """(token, logprob) of the answer."""
        line = self.lines[request_id] = queue.SimpleQueue()
        spec = adapter(name, family.adapters[name]) if name else None
        self.intake.take(
            {"type": "generate", "id": request_id, "user": request_id, "base": base("t", family.base), "adapter": spec,
             "prompt": prompt, "params": {"temperature": 0.0, "max_tokens": 10, "ignore_eos": True, "logprobs": 1}}
        )  # fmt: skip
        found: list[tuple[int, float]] = []
        while True:
            event = line.get(timeout=60)
            found += [(p["token_id"], p["logprob"]) for p in event.get("logprobs", ())]
            if event["type"] == "done":
                return found
            assert event["type"] != "error", event

    def close(self) -> None:
        self.engine.inbox.put({"type": "shutdown"})
        self.thread.join(30)


@pytest.mark.parametrize("native", [True, False], ids=["native", "tensors"])
def test_every_thread_gets_its_own_adapters_logprobs(llama: Family, native: bool) -> None:
    desk = Desk(native)
    try:
        prompts = [f"thread {number} asks about the sea" for number in range(THREADS)]
        alone = {
            (name, prompt): desk.ask(f"alone-{name}-{prompt}", llama, name, prompt)
            for prompt in prompts
            for name in NAMES
        }
        wrong: list[str] = []
        start = threading.Barrier(THREADS)

        def work(number: int) -> None:
            start.wait()
            for turn in range(ROUNDS):
                name, prompt = NAMES[(number + turn) % len(NAMES)], prompts[number]
                got, wanted = desk.ask(f"{number}-{turn}", llama, name, prompt), alone[name, prompt]
                same = [token for token, _ in got] == [token for token, _ in wanted]
                if not same or any(abs(a[1] - b[1]) > 1e-4 for a, b in zip(got, wanted, strict=True)):
                    wrong.append(f"{name} for thread {number}")

        threads = [threading.Thread(target=work, args=[number]) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not wrong and not any(thread.is_alive() for thread in threads)
        first = {tuple(token for token, _ in alone[name, prompts[0]]) for name in NAMES}
        assert len(first) == len(NAMES), "the adapters answer differently, so that a mix-up would be seen"
    finally:
        desk.close()
