"""The engine against the old design: PEFT `set_adapter` + `generate` in turn, and PEFT `adapter_names` in one batch.

`python -m benchmarks.engine [--json -] [--quick] [--out DIR]`. SmolLM2-135M-Instruct in fp32, greedy, 64 new tokens,
adapters of ranks 8/16/8/32 (twice for 8 adapters) on all seven linears with random weights. All sides run in this
process, one after another, on the same prompts; only ratios of one run mean anything. With `--json -` nothing but one
JSON object is printed; the exit status is 1 where a ratio falls short of its bound.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from inference.engine.config import EngineConfig
from inference.engine.content import digest_of
from inference.engine.engine import Engine
from inference.engine.intake import Intake
from inference.engine.model.runner import Runner

from .peft_side import PeftSide, write_adapters

TOKENS = 64
TOPICS = "the sea;a quiet morning;old maps;how bread is made;why leaves fall;a long journey;stars;rain on a roof".split(
    ";"
)
BOUNDS = {
    "eight_requests_four_adapters_vs_set_adapter": 6.0,
    "eight_requests_four_adapters_vs_adapter_names": 2.5,
    "thirty_two_requests_eight_adapters_vs_set_adapter": 10.0,
    "one_stream_vs_generate": 1.3,
}
LIMITS = {
    "mixed_over_base_eight": 1.35,
    "switch_resident_ms": 5.0,
    "switch_from_disk_ms": 300.0,
    "loading_delay_over_allowed": 1.0,
}
LOADING_GRACE = 0.02  # seconds that a step may take beyond twice its usual time while an adapter is read and proven


@functools.cache
def digest(adapter: Path) -> str:
    return digest_of(adapter)


class EngineSide:
    """The engine on this thread, without sockets; times are wall clock."""

    def __init__(self, base: Path) -> None:
        self.config = EngineConfig(device="cpu", user_limit=1000, max_context=512, adapter_bytes=2**30)
        self.events: list[dict[str, Any]] = []
        self.runner = Runner(self.config)
        self.engine = Engine(self.config, self.runner, self.events.append)  # type: ignore[arg-type]
        self.intake = Intake(self.engine)
        self.base = {"key": "base", "name": base.name, "path": str(base)}
        self.number = 0
        self.run([(None, "hello")], 2)

    def ask(self, adapter: Path | None, topic: str, tokens: int) -> str:
        self.number += 1
        spec = {"digest": digest(adapter), "name": adapter.name, "path": str(adapter)} if adapter else None
        self.intake.take(
            {"type": "generate", "id": f"r{self.number}", "user": f"u{self.number}", "base": self.base, "adapter": spec,
             "messages": [{"role": "user", "content": prompt(topic)}],
             "params": {"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True}}
        )  # fmt: skip
        return f"r{self.number}"

    def run(self, jobs: list[tuple[Path | None, str]], tokens: int) -> float:
        """Seconds until all have their tokens."""
        started = time.perf_counter()
        ids = {self.ask(adapter, topic, tokens) for adapter, topic in jobs}
        self.until(lambda: ids <= {e["id"] for e in self.events if e["type"] in {"done", "error"}})
        failed = [e for e in self.events if e["type"] == "error"]
        if failed:
            raise RuntimeError(failed[0]["message"])
        seconds = time.perf_counter() - started
        self.events.clear()
        return seconds

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.engine.tick(wait=bool(self.engine.loader.futures))

    def steps(self, sequences: int, adapters: list[Path | None], count: int = 24) -> float:
        """Median seconds of a decoding step with so many sequences."""
        self.intake.take({"type": "status", "id": "x"})
        for index in range(sequences):
            self.ask(adapters[index % len(adapters)], TOPICS[index % len(TOPICS)], 200)
        self.until(lambda: len(self.engine.scheduler.running) == sequences
                   and all(s.pending == 1 for s in self.engine.scheduler.running))  # fmt: skip
        taken = self.timed_ticks(lambda done: len(done) >= count)
        self.cancel_all()
        return statistics.median(taken)

    def base_and_mixed(
        self, sequences: int, adapters: list[Path | None], count: int, turns: int
    ) -> tuple[float, float, float]:
        """Seconds of a step on the base alone and over the adapters, best of several turns, and the median of each
        turn's ratio: a slow moment of the machine meets both sides of a turn or counts little."""
        pairs = [(self.steps(sequences, [None], count), self.steps(sequences, adapters, count)) for _ in range(turns)]
        ratio = statistics.median(mixed / base for base, mixed in pairs)
        return min(base for base, _ in pairs), min(mixed for _, mixed in pairs), ratio

    def switch(self, to: Path) -> float:
        """Seconds that the next token of a running stream takes longer when a request on another adapter arrives,
        beyond that request's own prefill: the working set's change for a resident adapter."""
        assert self.runner.base is not None
        bank = self.runner.base.model.bank
        rows: list[str | None] = [digest(to)]
        started = time.perf_counter()
        with torch.inference_mode():
            bank.prepare(rows, [0])
        return time.perf_counter() - started

    def from_disk(self, adapter: Path) -> float:
        """Seconds from asking for an adapter on disk to its proof being done, while a stream runs."""
        self.evict(adapter)
        self.ask(None, "the sea", 400)
        self.until(lambda: any(e["type"] == "token" for e in self.events))
        request = self.ask(adapter, "the sea", 1)
        started = time.perf_counter()
        self.until(lambda: any(e["type"] == "proof" and e["digest"] == digest(adapter) for e in self.events))
        seconds = time.perf_counter() - started
        self.until(lambda: any(e.get("id") == request and e["type"] == "done" for e in self.events))
        self.cancel_all()
        return seconds

    def evict(self, adapter: Path) -> None:
        self.intake.take({"type": "evict", "id": f"e{self.number}", "digest": digest(adapter)})
        self.until(lambda: digest(adapter) not in self.engine.residency.adapters)
        self.events.clear()

    def loading_delay(self, adapters: list[Path]) -> dict[str, float]:
        """What loading and proving an adapter adds to the steps of eight running sequences, in seconds: the median step
        without, the worst with a load beside it, as the median over several loads."""
        for index in range(8):
            self.ask(None, TOPICS[index], 400)
        self.until(lambda: len(self.engine.scheduler.running) == 8
                   and all(s.pending == 1 for s in self.engine.scheduler.running))  # fmt: skip
        usual = statistics.median(self.timed_ticks(lambda taken: len(taken) >= 24))
        worst = []
        for adapter in adapters:
            self.evict(adapter)
            request = self.ask(adapter, "the sea", 1)
            worst.append(max(self.timed_ticks(lambda _: any(
                e["type"] == "proof" and e["digest"] == digest(adapter) for e in self.events))))  # noqa: B023  # fmt: skip
            self.until(lambda: any(e.get("id") == request and e["type"] == "done" for e in self.events))  # noqa: B023
        self.cancel_all()
        return {"usual_step": usual, "worst_step": statistics.median(worst)}

    def timed_ticks(self, done: Callable[[list[float]], bool]) -> list[float]:
        taken: list[float] = []
        while not done(taken):
            started = time.perf_counter()
            self.engine.tick(wait=False)
            taken.append(time.perf_counter() - started)
        return taken

    def cancel_all(self) -> None:
        for request in list(self.engine.requests.arrivals):
            self.intake.take({"type": "cancel", "id": request})
        self.until(lambda: not self.engine.requests.arrivals)
        self.events.clear()


def prompt(topic: str) -> str:
    return f"Please tell me a short story about {topic}, and say what one may learn from it."


def matmul_limit() -> tuple[float, float]:
    """(GFLOP/s of a large fp32 product, GB/s of reading memory) on this machine now."""
    a = torch.randn(1536, 1536)
    big = torch.randn(64 * 2**20)
    best = [1e9, 1e9]
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        best[0] = min(best[0], time.perf_counter() - started)
        started = time.perf_counter()
        big.sum()
        best[1] = min(best[1], time.perf_counter() - started)
    return 2 * 1536**3 / best[0] / 1e9, big.nbytes / best[1] / 1e9


def measure(base: Path, folder: Path, quick: bool) -> dict[str, Any]:
    adapters = write_adapters(base, folder, 9)
    engine = EngineSide(base)
    peft = PeftSide(base, adapters[:8], TOKENS)
    eight = [(adapters[i % 4], TOPICS[i % 8]) for i in range(8)]
    many = [(adapters[i % 8], TOPICS[i % 8]) for i in range(32)]
    engine.run([(adapters[i], "stars") for i in range(8)], 2)  # loaded and proven before anything is timed
    result: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    # Sides take turns, and each counts with its best, so that one slow moment of the machine does not decide.
    for _ in range(1 if quick else 2):
        for name, run in {
            "engine_8": lambda: engine.run(list(eight), TOKENS),
            "engine_32": lambda: engine.run(list(many), TOKENS),
            "engine_1": lambda: engine.run([(None, "the sea")], TOKENS),
            "peft_names_8": lambda: peft.together([(a, prompt(t)) for a, t in eight]),
            "peft_1": lambda: peft.base_alone(prompt("the sea")),
        }.items():
            seconds[name] = min(seconds.get(name, 1e9), run())
    seconds["peft_turn_8"] = peft.in_turn([(a, prompt(t)) for a, t in eight])
    # 32 in turn are 8 four times over; measured once, since it takes minutes.
    seconds["peft_turn_32"] = 4 * peft.in_turn([(adapters[i], prompt(TOPICS[i])) for i in range(8)])
    result["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    result["eight_requests_four_adapters_vs_set_adapter"] = seconds["peft_turn_8"] / seconds["engine_8"]
    result["eight_requests_four_adapters_vs_adapter_names"] = seconds["peft_names_8"] / seconds["engine_8"]
    result["thirty_two_requests_eight_adapters_vs_set_adapter"] = seconds["peft_turn_32"] / seconds["engine_32"]
    result["one_stream_vs_generate"] = seconds["peft_1"] / seconds["engine_1"]
    four: list[Path | None] = list(adapters[:4])
    _, _, result["mixed_over_base_eight"] = engine.base_and_mixed(8, four, count=16, turns=7)
    result["switch_resident_ms"] = 1000 * engine.switch(adapters[6])
    result["switch_from_disk_ms"] = 1000 * statistics.median(engine.from_disk(adapter) for adapter in adapters[6:])
    delay = engine.loading_delay(adapters[5:9])
    result["loading_delay_ms"] = {name: round(1000 * value, 1) for name, value in delay.items()}
    allowed = delay["usual_step"] + LOADING_GRACE
    result["loading_delay_over_allowed"] = (delay["worst_step"] - delay["usual_step"]) / allowed
    gflops, bandwidth = matmul_limit()
    result["machine"] = {"gflops": round(gflops, 1), "gb_per_second": round(bandwidth, 1)}
    result["steps"] = step_table(engine, four, gflops, bandwidth)
    return result


def step_table(
    engine: EngineSide, adapters: list[Path | None], gflops: float, bandwidth: float
) -> list[dict[str, Any]]:
    """Time of a step by number of sequences, and its share of the limit: the larger of reading the packed weights once
    and multiplying with them."""
    loaded = engine.runner.base
    assert loaded is not None
    packed = loaded.info.bytes - sum(parameter.nbytes for parameter in loaded.model.module.parameters())
    weights = sum(kind.inputs * kind.outputs * kind.layers for kind in loaded.model.bank.kinds.values())
    table = []
    for sequences in (1, 2, 4, 8, 16, 32):
        floor = max(packed / bandwidth / 1e9, 2 * weights * sequences / gflops / 1e9)
        base, mixed, _ = engine.base_and_mixed(sequences, adapters, count=8, turns=3)
        table.append(
            {"sequences": sequences, "base_ms": round(1000 * base, 1), "mixed_ms": round(1000 * mixed, 1),
             "share_of_limit": round(floor / base, 3)}
        )  # fmt: skip
    return table


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    return {
        **{name: result[name] >= bound for name, bound in BOUNDS.items()},
        **{name: result[name] <= bound for name, bound in LIMITS.items()},
    }


def show(result: dict[str, Any]) -> None:
    for name, good in result["met"].items():
        bound = f">= {BOUNDS[name]}" if name in BOUNDS else f"<= {LIMITS[name]}"
        print(f"{name:55} {result[name]:8.2f}   {bound:8} {'met' if good else 'MISSED'}")
    print(f"\n{'sequences':>9} {'base ms':>9} {'mixed ms':>9} {'share of the limit':>19}")
    for row in result["steps"]:
        print(f"{row['sequences']:9} {row['base_ms']:9.1f} {row['mixed_ms']:9.1f} {row['share_of_limit']:19.0%}")


def plot(result: dict[str, Any], file: Path) -> None:
    """Step times and the share of the machine's limit as an SVG, sequences from left to right in doublings."""
    rows = result["steps"]
    top = max(max(row["mixed_ms"], row["base_ms"]) for row in rows)
    x = [60 + 480 * index / (len(rows) - 1) for index in range(len(rows))]
    lines = (("base_ms", "#2563eb", "base", top), ("mixed_ms", "#d97706", "mixed adapters", top),
             ("share_of_limit", "#6b7280", "share of the limit", 1.0))  # fmt: skip
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 340" font-family="sans-serif" font-size="12">']
    for number, (key, colour, label, scale) in enumerate(lines):
        points = " ".join(f"{a:.0f},{290 - 250 * row[key] / scale:.0f}" for a, row in zip(x, rows, strict=True))
        dashes = ' stroke-dasharray="4 4"' if key == "share_of_limit" else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts.append(f'<text x="{60 + 130 * number}" y="20" fill="{colour}">{label}</text>')
    for a, row in zip(x, rows, strict=True):
        parts.append(f'<text x="{a:.0f}" y="310" text-anchor="middle">{row["sequences"]}</text>')
    parts.append(f'<text x="8" y="44">{top:.0f} ms</text><text x="550" y="44" fill="#6b7280">100 %</text>')
    parts.append('<text x="270" y="332">sequences</text></svg>')
    file.write_text("\n".join(parts), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--base", type=Path, default=Path("var/models/SmolLM2-135M-Instruct"))
    parser.add_argument("--json", type=Path, help="write the JSON there; '-' prints it and nothing else")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="each side once")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(given.base.resolve(), Path(folder), given.quick)
    result["met"] = verdicts(result)
    if str(given.json) == "-":
        print(json.dumps(result))
    else:
        show(result)
        file = given.json or given.out / "engine.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1), encoding="utf-8")
        plot(result, file.with_suffix(".svg"))
    return 0 if all(result["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
