"""Chat templates rendered within bounds, in a child process that is ended where a template is not."""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import launching

CHILD = Path(__file__).with_name("template_child.py")
PATIENCE = 60.0  # seconds, also for its start; the child itself allows a template two of the processor's time
PAUSE = 30.0  # seconds in which a template that did not end is not tried again
LONGEST = 2**27  # bytes of an answer
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
MOST_USEFUL = 1000
_useful: set[int] = set()  # hashes of templates with their tokens
UNUSABLE = {"", "MemoryError", "TemplateSyntaxError", "SecurityError"}
PROBE = [{"role": "user", "content": "Who are you?"}]
ENDLESS = "it does not come to an end"


class TemplateError(Exception):
    """`kind`: the class of the exception that the template ended with; "" where it was ended."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.reason, self.kind = reason, kind


class Renderer:
    """One child, started when it is needed first; one template at a time, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._refused: dict[str, float] = {}  # template -> until when

    def render(
        self, template: str, messages: list[dict[str, str]], tokens: dict[str, Any], continue_last: bool = False,
        whole: bool = False,
    ) -> str:  # fmt: skip
        """The text of a prompt; `whole`: of a conversation that ends with its last answer, as training sees it.
        `tokens`: the special tokens by name. Raises TemplateError, OSError."""
        request = {
            "template": template, "messages": messages, "tokens": tokens, "continue_last": continue_last, "whole": whole
        }  # fmt: skip
        with self._lock:
            if self._refused.get(template, 0.0) > time.monotonic():
                raise TemplateError(ENDLESS)
            try:
                answer = self._ask(json.dumps(request).encode() + b"\n")
            except BaseException:
                self.close()  # what it has still to say would be taken for the next answer
                raise
            if answer is None:
                self.close()
                self._refused = {k: until for k, until in self._refused.items() if until > time.monotonic()}
                self._refused[template] = time.monotonic() + PAUSE
                raise TemplateError(ENDLESS)
            if answer.get("kind") == "MemoryError":
                self.close()
                raise TemplateError("it takes too much memory", "MemoryError")
        if "text" not in answer:
            raise TemplateError(answer["error"] or answer["kind"], answer["kind"])
        return str(answer["text"])

    def start(self) -> None:
        """Begin to start the child, so that the first template need not wait for it. Raises OSError."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the child; the next template gets another one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            with child:
                pass

    def _ask(self, line: bytes) -> dict[str, Any] | None:
        """None where the child did not answer: it has ended, or did not in time."""
        child = self._running()
        assert child.stdin is not None and child.stdout is not None  # noqa: S101  (for the type checker)
        deadline = time.monotonic() + PATIENCE
        try:
            child.stdin.write(line)
            child.stdin.flush()
        except BrokenPipeError:
            return None
        said = bytearray()
        waiting = select.poll()
        waiting.register(child.stdout, select.POLLIN)
        while not said.endswith(b"\n"):
            ready = waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
            data = os.read(child.stdout.fileno(), 2**20) if ready else b""
            if not data or len(said) > LONGEST:
                return None
            said += data
        found: dict[str, Any] = json.loads(said)
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            one = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            environment = launching.of_these(*KEPT, **one)
            words = [sys.executable, "-I", str(CHILD)]
            self._child = launching.start(words, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._child


class Renderers:
    """Several of them, so that nobody waits for another one's template; from any thread. Most of the time the first
    does all the work: another child is started only where that one is busy."""

    def __init__(self, most: int) -> None:
        self._all = [Renderer() for _ in range(most)]
        self._free: queue.LifoQueue[Renderer] = queue.LifoQueue()
        for one in reversed(self._all):
            self._free.put(one)

    def render(
        self, template: str, messages: list[dict[str, str]], tokens: dict[str, Any], continue_last: bool = False,
        whole: bool = False,
    ) -> str:  # fmt: skip
        """See `Renderer.render`."""
        one = self._free.get()
        try:
            return one.render(template, messages, tokens, continue_last, whole)
        finally:
            self._free.put(one)

    def start(self) -> None:
        """Begin to start the first child, so that the first template need not wait for it. Raises OSError."""
        self._all[0].start()

    def close(self) -> None:
        for one in self._all:
            one.close()


RENDERER = Renderers(4)  # of as many threads as a fleet's backend has; the engine writes prompts on one
atexit.register(RENDERER.close)


def template_fault(template: str, tokens: Mapping[str, str]) -> str:
    """Why a template is of no use: it is no template, or it does not end; "" for one that merely refuses the probe.

    Takes a second, and none for one that was of use before: the checkpoints of a run share theirs. Raises OSError.
    """
    seen = hash((template, *sorted(tokens.items())))
    if seen in _useful:
        return ""
    renderer = Renderer()
    try:
        renderer.render(template, PROBE, dict(tokens))
    except TemplateError as error:
        if error.kind in UNUSABLE:
            return error.reason
    finally:
        renderer.close()
    if len(_useful) >= MOST_USEFUL:
        _useful.clear()
    _useful.add(seen)
    return ""
