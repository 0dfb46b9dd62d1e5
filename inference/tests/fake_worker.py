"""A worker without a model that speaks the engine's protocol, for tests of the web side. Run with `--fd N`.

The words of a prompt direct it: `crash`, `mute` (no more heartbeats), `garbage` (a line that is no JSON), `hang`
(runs until cancelled), `flood` (pieces as fast as they go), `firehose` (the same without end), `long` (one piece of
600,000 characters), `fail` (an engine error). Otherwise it answers `<adapter or base> says <prompt>` word by word,
`max_tokens` words at most. An adapter named `dud` fails its proof; the files of one named `real`, and of a base whose
folder exists, are checked as the engine checks them. A base named `killer` ends the process while it loads, and so does
one named `shrinking`, whose weights are cut short by then; their loads, and those of `fragile` and `good`, are told as
the engine tells them. The configuration (LORAPORTAL_ENGINE) may say `die`: end before being ready, as long as the file
named there exists; and `loss`: of each word of a text, in nats.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, os.getcwd())
from inference.engine import content  # noqa: E402
from inference.engine.errors import EngineError  # noqa: E402

ZERO = {"queue": 0.0, "load": 0.0, "ttft": 0.01, "total": 0.02, "tokens_per_second": 100.0}


class Worker:
    def __init__(self, fd: int, config: dict[str, Any]) -> None:
        self.socket = socket.socket(fileno=fd)
        self.config = config
        self.lock = threading.Lock()
        self.cancelled: set[str] = set()
        self.running: set[str] = set()
        self.adapters: dict[str, dict[str, Any]] = {}
        self.base: dict[str, Any] | None = None
        self.pinned = False
        self.mute = False
        self.loads = 0

    def send(self, **event: Any) -> None:
        with self.lock:
            self.socket.sendall(json.dumps(event).encode() + b"\n")

    def beat(self) -> None:
        while not self.mute:
            self.send(type="heartbeat", status=self.state())
            time.sleep(self.config.get("beat", 0.1))

    def state(self) -> dict[str, Any]:
        base = self.base or {}
        return {
            "state": "ready" if base else "empty",
            "base": base.get("name"),
            "base_key": base.get("key"),
            "pinned": self.pinned,
            "adapters": [{"digest": d, "name": a["name"]} for d, a in self.adapters.items()],
            "running": len(self.running),
            "loads": self.loads,
        }

    def run(self) -> None:
        die = self.config.get("die")
        if die and Path(die).exists():
            sys.exit(3)
        self.send(type="ready", pid=os.getpid(), device="cpu")
        threading.Thread(target=self.beat, daemon=True).start()
        for line in self.socket.makefile("rb"):
            command = json.loads(line)
            if command["type"] == "shutdown":
                for request_id in list(self.running):
                    self.error(request_id, "shutting_down")
                os._exit(0)
            elif command["type"] == "cancel":
                self.cancelled.add(command["id"])
            elif command["type"] == "generate":
                self.running.add(command["id"])
                threading.Thread(target=self.generate, args=[command], daemon=True).start()
            else:
                getattr(self, command["type"])(command)

    def hold(self, command: dict[str, Any]) -> None:
        if self.base != command["base"]:
            self.base = command["base"]
            self.adapters.clear()
            self.told_load(self.base)
            self.loads += 1
            self.send(type="loading", id=command["id"], stage="weights", progress=0.5, name=self.base["name"])
        for adapter in [command.get("adapter"), *command.get("adapters", ())]:
            if adapter and adapter["digest"] not in self.adapters:
                self.adapters[adapter["digest"]] = adapter
                bad = adapter["name"] == "dud"
                code = "no_effect" if bad else ""
                proof = {"ok": not bad, "code": code, "message": "", "kl": 0.5, "changed": 0.5, "seconds": 0.1}
                self.send(type="proof", digest=adapter["digest"], **proof)

    def told_load(self, base: dict[str, Any]) -> None:
        if base["name"] not in {"killer", "shrinking", "fragile", "good"}:
            return
        self.send(type="base_load", key=base["key"], state="begun")
        if base["name"] == "killer":
            time.sleep(0.1)  # others have joined the line by then
            signal.raise_signal(signal.SIGSEGV)
        if base["name"] == "shrinking":
            os.truncate(os.path.join(base["path"], "model.safetensors"), 100)
            signal.raise_signal(signal.SIGBUS)
        self.send(type="base_load", key=base["key"], state="loaded")

    def load(self, command: dict[str, Any]) -> None:
        if not self.reads(command):
            return
        self.hold(command)
        if command.get("pin") is not None:
            self.pinned = command["pin"]
        self.reply(command, self.state())

    def status(self, command: dict[str, Any]) -> None:
        self.reply(command, self.state())

    def unload(self, command: dict[str, Any]) -> None:
        freed = 1000 if self.base else 0
        self.base = None
        self.adapters.clear()
        self.reply(command, {"freed_bytes": freed})

    def evict(self, command: dict[str, Any]) -> None:
        self.reply(command, {"freed_bytes": 10 if self.adapters.pop(command["digest"], None) else 0})

    def count(self, command: dict[str, Any]) -> None:
        if not self.reads(command):
            return
        self.reply(command, {"tokens": len(text_of(command).split()), "context_length": 2048})

    def reply(self, command: dict[str, Any], data: dict[str, Any]) -> None:
        self.send(type="reply", id=command["id"], data=data)

    def error(self, request_id: str, code: str, **detail: Any) -> None:
        self.running.discard(request_id)
        self.send(type="error", id=request_id, code=code, message=code, param=None, detail=detail)

    def generate(self, command: dict[str, Any]) -> None:
        request_id, words = command["id"], text_of(command).split()
        self.send(type="queued", id=request_id, position=0, reason="batch_full", detail={})
        if not self.reads(command):
            return
        self.hold(command)
        if (command["adapter"] or {}).get("name") == "dud":
            return self.error(request_id, "no_effect")
        if "crash" in words:
            os._exit(9)
        if "garbage" in words:
            with self.lock:
                self.socket.sendall(b"{nonsense\n")
        if "mute" in words:
            self.mute = True
            return
        if "fail" in words:
            return self.error(request_id, "context_length_exceeded", tokens=9000, context=2048)
        if "hang" in words:
            pieces = iter(lambda: "tick ", None)
        elif "firehose" in words:
            pieces = iter(lambda: "x" * 2000, None)
        elif "flood" in words:
            pieces = iter(["x" * 20] * 5000)
        elif "long" in words:
            pieces = iter(["x" * 600_000])
        elif not self.prompt(command):
            pieces = iter(())
        else:
            name = (command["adapter"] or command["base"])["name"]
            pieces = iter([word + " " for word in [name, "says", *words]][: command["params"].get("max_tokens", 256)])
        self.stream(command, pieces, pause=0.02 if "hang" in words else 0)

    def prompt(self, command: dict[str, Any]) -> bool:
        """Tell what is wanted of the prompt, each word a token of the probability 1/e; whether an answer is wanted."""
        reading = command.get("reading")
        if reading is None:
            return True
        text, offset, told = reading["continuation"] or text_of(command), 0, []
        for at, word in enumerate(text.split()):
            raw = list(word.encode())
            alternatives = [[f"{word}{n}", 1000 + n, -0.5, raw] for n in range(reading["logprobs"] or 0)]
            told.append({
                "token": word, "token_id": at, "logprob": -self.config.get("loss", 1.0) if at else None, "bytes": raw,
                "offset": offset, "top": alternatives if at else [],
            })  # fmt: skip
            offset += len(word) + 1
        if reading["echo"]:
            self.send(type="prompt", id=command["id"], text=text, logprobs=[])
        if reading["logprobs"] is not None:
            for start in range(0, len(told), 2):
                self.send(type="prompt", id=command["id"], text="", logprobs=told[start : start + 2])
        return bool(reading["answer"])

    def reads(self, command: dict[str, Any]) -> bool:
        """Whether what the command names is what it says; the error has been sent where not."""
        adapter = command.get("adapter") or {}
        try:
            if Path(command["base"]["path"]).is_dir():
                content.check_base(command["base"])
            if adapter.get("name") == "real" and adapter["digest"] not in self.adapters:
                content.read_copy(Path(adapter["path"]), adapter["digest"], "real", 2**30)
        except EngineError as error:
            if error.code == "store_damaged":
                self.send(type="damage", digest=error.detail["digest"], reason=error.detail["reason"])
            self.error(command["id"], error.code, **error.detail)
            return False
        return True

    def stream(self, command: dict[str, Any], pieces: Any, pause: float) -> None:
        read_only = command.get("reading") is not None and not command["reading"]["answer"]
        request_id, index, reason = command["id"], 0, "length" if read_only else "stop"
        for text in pieces:
            if request_id in self.cancelled:
                reason = "cancelled"
                break
            self.send(type="token", id=request_id, index=index, text=text, tokens=index + 1)
            index += 1
            time.sleep(pause)
        self.running.discard(request_id)
        usage = {
            "prompt_tokens": len(text_of(command).split()),
            "completion_tokens": index,
            "cached_tokens": 0,
        }
        digest = (command["adapter"] or {}).get("digest") or command["base"]["key"]
        self.send(type="done", id=request_id, finish_reason=reason, usage=usage, timings=ZERO, digest=digest)


def text_of(command: dict[str, Any]) -> str:
    if command.get("tokens") is not None:
        return " ".join(map(str, command["tokens"]))
    return command.get("prompt") or " ".join(message["content"] for message in command["messages"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    Worker(parser.parse_args().fd, json.loads(os.environ["LORAPORTAL_ENGINE"])).run()
