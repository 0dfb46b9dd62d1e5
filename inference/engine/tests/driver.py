"""Driving an engine tick by tick, and collecting what it says."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from inference.engine.config import EngineConfig
from inference.engine.content import CONFIG, WEIGHTS, digest_of
from inference.engine.engine import Engine
from inference.engine.intake import Intake


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Driver:
    """An engine on this thread. Adapter reads still run on their own thread; `until` waits for conditions."""

    def __init__(self, runner: Any, config: EngineConfig | None = None, clock: Clock | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.clock = clock or Clock()
        self.runner = runner
        self.engine = Engine(config or EngineConfig(), runner, self.events.append, clock=self.clock)  # type: ignore[arg-type]
        self.intake = Intake(self.engine)

    def generate(
        self, request_id: str, base: dict[str, Any], adapter: dict[str, Any] | None = None, user: str = "u",
        prompt: str | None = "hello", messages: list[dict[str, str]] | None = None, **params: Any,
    ) -> None:  # fmt: skip
        params.setdefault("temperature", 0.0)
        params.setdefault("max_tokens", 12)
        command: dict[str, Any] = {
            "type": "generate", "id": request_id, "user": user, "base": base, "adapter": adapter, "params": params
        }  # fmt: skip
        command.update({"messages": messages} if messages is not None else {"prompt": prompt})
        self.intake.take(command)

    def send(self, kind: str, **fields: Any) -> None:
        self.intake.take({"type": kind, **fields})

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.engine.tick(wait=bool(self.engine.loader.futures))

    def until(self, done: Any, limit: int = 5000) -> None:
        for _ in range(limit):
            if done():
                return
            self.tick()
        raise AssertionError(f"not reached after {limit} ticks; last events: {self.events[-5:]}")

    def finish(self, *ids: str) -> None:
        self.until(lambda: all(self.ended(i) for i in ids))

    def ended(self, request_id: str) -> dict[str, Any] | None:
        final = [e for e in self.events if e.get("id") == request_id and e["type"] in {"done", "error", "reply"}]
        assert len(final) <= 1, "a request ends once"
        return final[0] if final else None

    def texts(self) -> dict[str, str]:
        found: dict[str, str] = defaultdict(str)
        for event in self.events:
            if event["type"] == "token":
                found[event["id"]] += event["text"]
        return found

    def of(self, kind: str, request_id: str | None = None) -> list[dict[str, Any]]:
        return [e for e in self.events if e["type"] == kind and request_id in (None, e.get("id"))]


def base(name: str = "base", path: Path | str = "", **extra: Any) -> dict[str, Any]:
    return {"key": f"key-{name}", "name": name, "path": str(path), **extra}


def adapter(name: str, path: Path | str = "/nowhere", **extra: Any) -> dict[str, Any]:
    """The digest is that of the folder's files; of a folder without any, one made up from the name."""
    whole = all((Path(path) / file).is_file() for file in (CONFIG, WEIGHTS))
    digest = digest_of(Path(path)) if whole else f"digest-{name}"
    return {"digest": digest, "name": name, "path": str(path), **extra}
