"""Commands on their way to the engine: prompts become tokens on a thread of their own, in order of arrival.

A long prompt or a tokenizer that must first be read costs its own request time, and nobody else a step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import ValidationError

from inference.engine.params import SamplingParams
from inference.engine.scheduling.sequence import Reading, Sequence
from inference.engine.text.detokenizer import Detokenizer

from .engine import Engine, context_exceeded
from .errors import EngineError
from .protocol import CountCommand, GenerateCommand
from .requests import Arrival


class Intake:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runner = engine.runner
        self.delivery = engine.delivery

    def take(self, command: Any) -> None:
        """Hand a command to the engine; requests that cannot start get their error here. Never raises."""
        try:
            if command["type"] == "count":
                self._count(command)
            elif command["type"] == "generate":
                self.engine.inbox.put(self._arrival(command))
            else:
                self.engine.inbox.put(command)
        except BaseException as error:  # noqa: BLE001  (one bad request must not end the thread)
            self._failed(command, error)

    def _failed(self, command: Any, error: BaseException) -> None:
        failure = self.engine.faults.caught(error, "reading a command")
        if not isinstance(command, dict) or command.get("id") is None:
            return
        if command.get("base"):
            self.delivery.registry(command["base"], failure)
        self.delivery.error(command["id"], failure)

    def _tokens(self, command: Any) -> list[int]:
        if command.get("tokens") is not None:
            return list(command["tokens"])
        return self.runner.encode(
            command["base"], command.get("messages"), command.get("prompt"), bool(command.get("continue_last")),
            command.get("adapter"),
        )  # fmt: skip

    def _arrival(self, command: GenerateCommand) -> Arrival:
        arrived = self.engine.clock()
        tokens, reading = self._read(command)
        context = self.runner.context_length(command["base"])
        if not tokens:
            raise EngineError("invalid_parameter", "The prompt is empty.", param_of(command))
        if len(tokens) + (reading is None or reading.answer) > context:
            error = context_exceeded(len(tokens), context)
            error.param = param_of(command)
            raise error
        adapter = command["adapter"]
        ends, defaults = self.runner.manner(command["base"], adapter)
        params = sampling_params({**defaults, **command["params"]})
        digest = adapter["digest"] if adapter else None
        decode = partial(self.runner.decode, adapter=digest)
        sequence = Sequence(
            id=command["id"],
            user=command["user"],
            base_key=command["base"]["key"],
            adapter=digest,
            tokens=tokens,
            params=params,
            arrived=arrived,
            text=Detokenizer(decode, params.stop, params.include_stop_str_in_output),
            ends=ends,
            reading=reading,
            background=bool(command.get("background")),
        )
        return Arrival(sequence, command["base"], adapter, command)

    def _read(self, command: GenerateCommand) -> tuple[list[int], Reading | None]:
        """The tokens of the prompt, and what is wanted of them. Raises EngineError."""
        asked = command.get("reading")
        if asked is None:
            return self._tokens(command), None
        text = asked["continuation"]
        if text is None:
            tokens, first = self._tokens(command), 0
        else:
            tokens, first = self.runner.encode_pair(
                command["base"], command.get("messages"), command.get("prompt"), text, command["adapter"]
            )
            if first >= len(tokens):
                raise EngineError("invalid_parameter", "The continuation adds no token.", "continuation")
        text = command.get("prompt") if text is None else text
        return tokens, Reading(first, asked["logprobs"], text, asked["echo"], asked["answer"])

    def _count(self, command: CountCommand) -> None:
        tokens = len(self._tokens(command))
        context = self.runner.context_length(command["base"])
        self.delivery.reply(command["id"], {"tokens": tokens, "context_length": context})


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
