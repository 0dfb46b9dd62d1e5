"""Renders chat templates, as a program of its own: `python -I template_child.py`; nobody imports it.

Reads requests and writes answers, one JSON object a line: {template, messages, tokens, continue_last, whole} ->
{"text": …} or {"error": …, "kind": the exception's class}. A template is a program of somebody else's. The sandbox of
`jinja_templates.py` keeps it from everything but time and memory; those are bounded here: a request that uses `SECONDS`
of the processor ends this process, whatever it is doing, and so does the end of standard input.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # (-I leaves a program's own folder out)
from jinja_templates import render  # noqa: E402

SECONDS = 2.0  # a template takes milliseconds
MEMORY = 2**30  # bytes beyond what the libraries take
LONGEST = 2**24  # characters of a prompt
LONGEST_REASON = 300


def answer_to(request: dict[str, Any]) -> dict[str, str]:
    continued = request["continue_last"]
    ask = not continued and not request.get("whole")
    try:
        text = render(request["template"], request["messages"], request["tokens"], continued, ask)
        if len(text) > LONGEST:
            raise ValueError(f"it makes a prompt of {len(text)} characters")
    except Exception as error:  # noqa: BLE001  (it may divide by zero or look up what is not there)
        return {"error": str(error).strip().split("\n", 1)[0][:LONGEST_REASON], "kind": type(error).__name__}
    return {"text": text}


def main() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        answer = answer_to(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
