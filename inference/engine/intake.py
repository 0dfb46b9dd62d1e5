"""Commands on their way to the engine: prompts become tokens on a thread of their own, in order of arrival.

A long prompt or a tokenizer that must first be read costs its own request time, and nobody else a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from inference.engine.params import SamplingParams
from inference.engine.scheduling.sequence import Sequence
from inference.engine.text.detokenizer import Detokenizer

from .engine import Arrival, Engine, context_exceeded
from .errors import EngineError
from .protocol import CountCommand, Event, GenerateCommand
from .runner_interface import BaseRunner


class Intake:
    def __init__(
        self, engine: Engine, runner: BaseRunner, send: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.runner = runner
        self.send = send
        self.clock = clock

    def take(self, command: Any) -> None:
        """Hand a command to the engine; requests that cannot start get their error here. Never raises."""
        try:
            if command["type"] == "count":
                self.count(command)
            elif command["type"] == "generate":
                self.engine.inbox.put(self.arrival(command))
            else:
                self.engine.inbox.put(command)
        except BaseException as error:  # noqa: BLE001  (one bad request must not end the thread)
            self.failed(command, error)

    def failed(self, command: Any, error: BaseException) -> None:
        failure = self.engine.faults.caught(error, "reading a command")
        if not isinstance(command, dict) or command.get("id") is None:
            return
        if command.get("base"):
            self.engine.tell_registry(command["base"], failure)
        self.engine.send_error(command["id"], failure)

    def tokens(self, command: Any) -> list[int]:
        return self.runner.encode(
            command["base"], command.get("messages"), command.get("prompt"), bool(command.get("continue_last"))
        )

    def arrival(self, command: GenerateCommand) -> Arrival:
        arrived = self.clock()
        tokens = self.tokens(command)
        context = self.runner.context_length(command["base"])
        if not tokens:
            raise EngineError("invalid_parameter", "The prompt is empty.", param_of(command))
        if len(tokens) >= context:
            error = context_exceeded(len(tokens), context)
            error.param = param_of(command)
            raise error
        params = sampling_params(command["params"])
        adapter = command["adapter"]
        sequence = Sequence(
            id=command["id"],
            user=command["user"],
            base_key=command["base"]["key"],
            adapter=adapter["digest"] if adapter else None,
            tokens=tokens,
            params=params,
            arrived=arrived,
            text=Detokenizer(self.runner.decode, params.stop),
        )
        return Arrival(sequence, command["base"], adapter, command)

    def count(self, command: CountCommand) -> None:
        tokens = len(self.tokens(command))
        self.engine.reply(
            command["id"], {"tokens": tokens, "context_length": self.runner.context_length(command["base"])}
        )


def param_of(command: GenerateCommand) -> str:
    return "prompt" if command.get("messages") is None else "messages"


def sampling_params(given: dict[str, Any]) -> SamplingParams:
    """Raises EngineError `invalid_parameter`; the web side has refused such before, in the reader's words."""
    try:
        return SamplingParams.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise EngineError("invalid_parameter", f"{name}: {first['msg']}", name, reason=first["msg"]) from None
