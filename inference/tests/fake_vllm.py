"""A vLLM server without a model, over plain sockets: an ASGI server could not break a connection in the middle.

It finds adapters as vLLM's filesystem resolver does: a model named like a folder in `folder`, whose config names the
base's root. An answer is `<model> says <prompt>`, one word a chunk. The words of a prompt direct it: `hang` (goes on
until the connection is closed), `refuse` (400), `busy` (429), `broken` (500), `away` (503), `reset` (before the first
token), `cut` (after two), `stump` (a body that ends in good order, and too early), `half` (the connection ends in the
middle of a line), `garbage` (a chunk that is no JSON), `endless` (a line without end), `other` (another model's
name), `abort` (a replica gives it up), `error` (an error chunk), `silent` (nothing but comments), `noend` (no reason
at the end), `late` (half a second before each token), `babble` (more chunks than tokens were asked for), `pipe` (ends
without [DONE]).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

END = b"data: [DONE]\n\n"
BASE = "tiny"


class Reset(Exception):  # noqa: N818
    """The connection ends as with a process that is killed."""


class FakeVllm:
    """Served on a thread of its own. `asked`: the bodies that it took; `left`: ids of those whose reader went."""

    def __init__(self, folder: Path, served: str = "base", root: str = f"/models/{BASE}", context: int = 512) -> None:
        self.folder, self.served, self.root, self.context = folder, served, root, context
        self.version = "0.32.0"
        self.slots = 4
        self.key = ""
        self.asked: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.headers: dict[str, str] = {}
        self.left: list[str] = []
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.deaf: set[str] = set()  # adapters that it answers as the base does
        self.bad: set[str] = set()  # adapters that it finds and cannot load
        self.override: dict[str, tuple[int, bytes]] = {}  # path -> status and body of every answer
        self.tokenizes = True
        self.connections = 0
        self.running = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """As a machine that is switched off: connections break. It may be started again, on the same port."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0)
        self.loaded.clear()

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except (Reset, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            with contextlib.suppress(Exception):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        method, path, _ = line.split(" ")
        self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        body = json.loads(await reader.readexactly(int(self.headers.get("content-length", 0))) or "{}")
        self.calls.append(f"{method} {path}")
        if self.key and path.startswith("/v1/") and self.headers.get("authorization") != f"Bearer {self.key}":
            answer(writer, 401, {"error": "Unauthorized"})
        elif path in self.override:
            status, data = self.override[path]
            answer(writer, status, data)
        elif path == "/v1/completions":
            return await self._complete(body, writer, self.headers.get("x-request-id", ""))
        else:
            self._other(path, body, writer)
        await writer.drain()
        return True

    def _other(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if path == "/v1/models":
            base = {"id": self.served, "root": self.root, "parent": None, "max_model_len": self.context}
            adapters = [{"id": one, "root": f"/fleet/{one}", "parent": self.served} for one in self.loaded]
            answer(writer, 200, {"object": "list", "data": [base, *adapters]})
        elif path == "/version":
            answer(writer, 200, {"version": self.version})
        elif path == "/metrics":
            answer(
                writer,
                200,
                METRICS.replace("RUNNING", str(float(self.running))).replace("SLOTS", str(self.slots)).encode(),
            )
        elif path == "/tokenize" and self.tokenizes:
            tokens = list(range(len(body["prompt"].split()) + bool(body["add_special_tokens"])))
            answer(writer, 200, {"count": len(tokens), "max_model_len": self.context, "tokens": tokens})
        elif path == "/v1/unload_lora_adapter":
            known = body["lora_name"] in self.loaded
            if known:
                self.loaded.remove(body["lora_name"])
                self.unloaded.append(body["lora_name"])
            answer(writer, 200 if known else 404, b"Success")
        else:
            refuse(writer, 404, "Not Found")

    def _resolve(self, name: str) -> tuple[int, str]:
        """A status and what it says, as vLLM does."""
        if name == self.served or name in self.loaded:
            return 200, ""
        try:
            config = json.loads((self.folder / name / "adapter_config.json").read_text())
        except OSError:
            return 404, f"The model `{name}` does not exist. Valid aliases: {self.served}."
        if config["peft_type"] != "LORA" or config["base_model_name_or_path"] != self.root:
            return 404, f"The model `{name}` does not exist. Valid aliases: {self.served}."
        if name in self.bad:
            return 400, f"LoRA adapter '{name}' was found but could not be loaded."
        self.loaded.append(name)
        return 200, ""

    async def _complete(self, body: dict[str, Any], writer: asyncio.StreamWriter, asked_as: str) -> bool:
        self.asked.append(body)
        prompt = body["prompt"]
        words = prompt.split() if isinstance(prompt, str) else [str(token) for token in prompt]
        status, said = self._resolve(body["model"])
        statuses = {"refuse": 400, "busy": 429, "broken": 500, "away": 503}
        directed = next((code for word, code in statuses.items() if word in words), None)
        if status != 200 or directed is not None:
            refuse(writer, directed or status, said or "No.", "model" if status == 404 else None)
        elif len(words) > self.context:
            message = f"This model's maximum context length is {self.context} tokens. However, your prompt contains "
            message += f"{len(words)} input tokens, which exceeds this limit even without any output tokens."
            refuse(writer, 400, message, "input_tokens")
        elif "reset" in words:
            raise Reset
        elif not body.get("stream"):
            answer(writer, 200, self._whole(body, words))
        else:
            self.running += 1
            try:
                return await self._stream(body, words, writer)
            except (ConnectionError, Reset, asyncio.CancelledError):
                self.left.append(asked_as)
                raise
            finally:
                self.running -= 1
        await writer.drain()
        return True

    def answer_words(self, body: dict[str, Any], words: list[str]) -> list[str]:
        name = body["model"]
        shown = self.served if name == self.served or name in self.deaf else name[:6]
        return [f"{word} " for word in [shown, "says", *words]][: body["max_tokens"]]

    def _whole(self, body: dict[str, Any], words: list[str]) -> dict[str, Any]:
        pieces = self.answer_words(body, words)
        usage = {"prompt_tokens": len(words), "completion_tokens": len(pieces)}
        logprobs = [self._logprobs(body, piece, at) for at, piece in enumerate(pieces)]
        merged = {key: sum((one[key] for one in logprobs if one), []) for key in LOGPROBS}
        choice = {"index": 0, "text": "".join(pieces), "finish_reason": "stop", "logprobs": merged}
        if body.get("return_token_ids"):
            ids = body["prompt"] if isinstance(body["prompt"], list) else list(range(50, 50 + len(words)))
            choice["prompt_token_ids"] = ids[:1] if "odd" in words else ids
            if body.get("prompt_logprobs") is not None:
                choice["prompt_logprobs"] = [None, *(self._of_prompt(body, token) for token in ids[1:])]
        return {"model": "another" if "other" in words else body["model"], "choices": [choice], "usage": usage}

    def _of_prompt(self, body: dict[str, Any], token: int) -> dict[str, Any]:
        """Any token of a prompt is the least likely of those that are told."""
        others = {str(token + n): {"logprob": -0.5 * n, "rank": n} for n in range(1, 1 + body["prompt_logprobs"])}
        return {str(token): {"logprob": -7.0, "rank": 9, "decoded_token": "x"}, **others}

    def _logprobs(self, body: dict[str, Any], piece: str, at: int) -> dict[str, list[Any]] | None:
        if body.get("logprobs") is None:
            return None
        shift = 0.0 if body["model"] == self.served or body["model"] in self.deaf else 0.5
        names = [f"token_id:{token}" for token in range(at, at + 1 + body["logprobs"])]
        top = {name: -0.1 - shift - number for number, name in enumerate(names)}
        return {"tokens": names[:1], "token_logprobs": [-0.1 - shift], "top_logprobs": [top], "text_offset": [0]}

    async def _stream(self, body: dict[str, Any], words: list[str], writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can be used again."""
        write_head(writer)
        if body.get("structured_outputs", {}).get("json", {}).get("type") == "nonsense":  # it is looked at this late
            error = {"message": "The schema is not supported.", "type": "BadRequestError", "param": None, "code": 400}
            await send(writer, event({"error": error}))
            await send(writer, END)
            return False
        pieces = self.answer_words(body, words)
        if "babble" in words:
            pieces = ["bla "] * (3 * body["max_tokens"] + 100)
        if "silent" in words:
            while True:
                await send(writer, b": ping\n\n", 0.05)
        if "endless" in words:
            await send(writer, b"data: ")
            while True:
                await send(writer, b"x" * 65536)
        at = 0
        while at < len(pieces) or "hang" in words:
            text = pieces[at] if at < len(pieces) else "tick "
            last = at == len(pieces) - 1 and "hang" not in words and "noend" not in words
            model = "another" if "other" in words else body["model"]
            at += 1
            chunk = self._chunk(body, model, text, at, len(words), last)
            if "abort" in words and at == 2:
                chunk["choices"][0]["finish_reason"] = "abort"
            if "error" in words and at == 2:
                await send(writer, event({"error": {"message": "secret /path", "type": "InternalServerError"}}))
                await send(writer, END)
                return False
            if "cut" in words and at == 3:
                raise Reset
            if "stump" in words and at == 3:
                await send(writer, b"", last=True)
                return True
            if "half" in words and at == 3:
                await send(writer, event(chunk)[:40])
                writer.close()
                return False
            if "garbage" in words and at == 3:
                await send(writer, b"data: {nonsense\n\n")
            pause = 0.5 if "late" in words else 0.01 if "hang" in words else 0.0
            await send(writer, event(chunk), pause)
        usage = {"prompt_tokens": len(words), "completion_tokens": at, "prompt_tokens_details": {"cached_tokens": 1}}
        await send(writer, event({"model": body["model"], "choices": [], "usage": usage}))
        if "pipe" not in words:
            await send(writer, END)
        await send(writer, b"", last=True)
        return True

    def _chunk(self, body: dict[str, Any], model: str, text: str, at: int, prompt: int, last: bool) -> dict[str, Any]:
        stop = body["stop"][0] if last and body["stop"] else None
        choice = {
            "index": 0, "text": text, "finish_reason": "stop" if last else None, "stop_reason": stop,
            "logprobs": self._logprobs(body, text, at),
        }  # fmt: skip
        return {
            "id": "cmpl", "model": model, "choices": [choice],
            "usage": {"prompt_tokens": prompt, "completion_tokens": at, "total_tokens": prompt + at},
        }  # fmt: skip


LOGPROBS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} RUNNING
vllm:num_requests_running{engine="1",model_name="base"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="base"} 3.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="base"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="base"} 0.75
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="SLOTS",running_lora_adapters="",waiting_lora_adapters=""} 1.7e9
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="128",kv_cache_memory_bytes="1073741824",engine="0"} 1.0
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0",model_name="base"} 9.0
"""


def answer(writer: asyncio.StreamWriter, status: int, body: dict[str, Any] | bytes) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    retry = "Retry-After: 7\r\n" if status in (429, 503) else ""
    writer.write(f"{head}{retry}\r\n".encode() + data)


def refuse(writer: asyncio.StreamWriter, status: int, message: str, param: str | None = None) -> None:
    answer(writer, status, {"error": {"message": message, "type": "BadRequestError", "param": param, "code": status}})


def write_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")


async def send(writer: asyncio.StreamWriter, data: bytes, pause: float = 0.0, last: bool = False) -> None:
    if data or last:
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()
    await asyncio.sleep(pause)
    if writer.transport.is_closing():
        raise ConnectionResetError


def event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@contextlib.contextmanager
def fake_vllm(folder: Path, **options: Any) -> Iterator[FakeVllm]:
    server = FakeVllm(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.close()
