"""The real runner, which kills its own process once at a stage: the file `die-at` in `run_dir` names it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from inference.engine.config import EngineConfig
from inference.engine.model.runner import Runner
from inference.engine.protocol import AdapterSpec, BaseSpec
from inference.engine.runner_interface import BaseInfo, OnProgress, StepResult
from inference.engine.scheduling.scheduler import Chunk


class DyingRunner(Runner):
    def __init__(self, config: EngineConfig) -> None:
        self.order = Path(config.run_dir) / "die-at"
        self.at("start")
        super().__init__(config)

    def at(self, stage: str) -> None:
        if self.order.exists() and self.order.read_text() == stage:
            self.order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def load_base(self, spec: BaseSpec, progress: OnProgress) -> BaseInfo:
        def watched(stage: Any, done: float) -> None:
            self.at(stage)
            progress(stage, done)

        info = super().load_base(spec, watched)
        self.at("loaded")
        return info

    def read_adapter(self, spec: AdapterSpec) -> Any:
        self.at("read")
        return super().read_adapter(spec)

    def add_adapter(self, loaded: Any) -> None:
        super().add_adapter(loaded)
        self.at("add")

    def step(self, chunks: list[Chunk], proof_budget: int) -> StepResult:
        proving = self.base is not None and bool(self.base.prober.digest)
        result = super().step(chunks, proof_budget)
        if proving:
            self.at("proof")
        if any(chunk.start == 0 for chunk in chunks):
            self.at("prefill")
        if any(chunk.sequence.generated == 5 for chunk in chunks):
            self.at("decode")
        return result

    def unload_base(self) -> int:
        self.at("unload")
        return super().unload_base()
