"""A runner without a model, for tests and load tests: answers are computed from adapter and prompt alone.

Chosen by `ENGINE_RUNNER=inference.engine.fake:FakeRunner`. Each answer repeats "<adapter name>:<n> " so that a wrong
adapter's text is seen at once. Adapter folders may hold a `fake.json`: {"fail": code, "bytes": n, "seconds": s}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.engine.scheduling.scheduler import Chunk
from inference.engine.scheduling.sequence import Sequence

from .config import EngineConfig
from .errors import EngineError
from .protocol import AdapterSpec, BaseSpec, PromptLogprob
from .runner_interface import BaseInfo, Loaded, OnProgress, ProofResult, SampledToken, StepResult

EOS = 0


@dataclass
class FakeLoaded:
    digest: str
    name: str
    rank: int
    bytes: int
    vocabulary: int = 0


class FakeRunner:
    """Tokens are code points. `LORAPORTAL_FAKE_STEP` sets the seconds of a step [0]."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.device = "cpu"
        self.step_seconds = float(os.environ.get("LORAPORTAL_FAKE_STEP", "0"))
        self.info: BaseInfo | None = None
        self.names: dict[str, str] = {}
        self.proving: str | None = None
        self.steps = 0

    def load_base(self, spec: BaseSpec, progress: OnProgress) -> BaseInfo:
        if spec["name"].startswith("broken"):
            raise EngineError("base_load_failed", "The base model could not be loaded.", reason="broken")
        for done in (0.0, 0.5, 1.0):
            progress("weights", done)
        self.info = BaseInfo(
            spec["key"], spec["name"], "fp32", self.config.max_context, self.config.max_batch, frozenset({EOS}),
            1000, 0, sys.maxunicode + 1,
        )  # fmt: skip
        return self.info

    def unload_base(self) -> int:
        self.info, self.names, self.proving = None, {}, None
        return 1000

    def manner(self, spec: BaseSpec, adapter: AdapterSpec | None) -> tuple[frozenset[int], dict[str, Any]]:
        return frozenset(), {}

    def encode(
        self, spec: BaseSpec, messages: list[dict[str, str]] | None, prompt: str | None, continue_last: bool,
        adapter: AdapterSpec | None = None,
    ) -> list[int]:  # fmt: skip
        text = prompt if messages is None else "".join(f"{m['role']}: {m['content']}\n" for m in messages)
        return [ord(character) for character in text or ""]

    def encode_pair(
        self, spec: BaseSpec, messages: list[dict[str, str]] | None, prompt: str | None, continuation: str,
        adapter: AdapterSpec | None = None,
    ) -> tuple[list[int], int]:  # fmt: skip
        before = self.encode(spec, messages, prompt, False)
        return before + self.encode(spec, None, continuation, False), len(before)

    def context_length(self, spec: BaseSpec) -> int:
        return self.config.max_context

    def decode(self, tokens: list[int], adapter: str | None = None) -> str:
        return "".join(chr(token) for token in tokens)

    def spell(self, tokens: list[int], adapter: str | None = None) -> str:
        return self.decode(tokens)

    def token_name(self, token: int, adapter: str | None = None) -> str:
        return chr(token)

    def start(self, sequence: Sequence) -> None:
        sequence.random = object()

    def read_adapter(self, spec: AdapterSpec) -> Loaded:
        file = Path(spec["path"]) / "fake.json"
        said: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        time.sleep(float(said.get("seconds", 0)))
        if said.get("fail"):
            raise EngineError(said["fail"], "This fake adapter fails.")
        return FakeLoaded(spec["digest"], spec["name"], 8, int(said.get("bytes", 1000)))

    def add_adapter(self, loaded: Loaded) -> None:
        self.names[loaded.digest] = loaded.name

    def remove_adapter(self, digest: str) -> None:
        self.names.pop(digest, None)
        if self.proving == digest:
            self.proving = None

    def begin_proof(self, digest: str) -> None:
        self.proving = digest

    def step(self, chunks: list[Chunk], proof_budget: int) -> StepResult:
        if self.step_seconds:
            time.sleep(self.step_seconds)
        self.steps += 1
        result = StepResult([self._choose(chunk) if chunk.last else None for chunk in chunks])
        result.scored = {index: scored(chunk) for index, chunk in enumerate(chunks) if chunk.sequence.untold}
        if self.proving is not None and proof_budget > 0:
            result.proof = ProofResult(self.proving, True, "", "", 0.5, 0.25)
            self.proving = None
        return result

    def _choose(self, chunk: Chunk) -> SampledToken:
        sequence = chunk.sequence
        if self.info is None or chunk.start != sequence.computed:
            raise EngineError("internal_error", "a step without its base or its earlier tokens")
        name = self.names[sequence.adapter] if sequence.adapter else self.info.name
        text = ""
        count = 0
        while len(text) <= sequence.generated:
            text += f"{name}:{count} "
            count += 1
        return SampledToken(ord(text[sequence.generated]))

    def scrub(self, slot: int) -> None:
        pass

    def memory(self) -> dict[str, int]:
        base = self.info.bytes if self.info else 0
        return {"base": base, "adapters": 0, "adapter_budget": self.config.adapter_bytes, "kv": 0, "rss": 0,
                "rss_peak": 0, "rss_limit": 0, "device_used": 0, "device_peak": 0, "device_total": 0}  # fmt: skip


def scored(chunk: Chunk) -> list[PromptLogprob] | EngineError:
    """Every token of a prompt has the probability 1/e."""
    tokens, reading = chunk.sequence.tokens, chunk.sequence.reading
    told: dict[int, float | None] = {0: None} if reading and not reading.told and not chunk.start else {}
    told |= dict.fromkeys((at + 1 for at in chunk.scored), -1.0)
    return [
        {"token": chr(tokens[at]), "token_id": tokens[at], "logprob": value, "bytes": list(chr(tokens[at]).encode()),
         "offset": 0, "top": []}
        for at, value in told.items()
    ]  # fmt: skip
