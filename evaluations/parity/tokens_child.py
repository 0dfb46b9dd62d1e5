"""Makes tokens of texts, as a program of its own: `python -I tokens_child.py DESCRIPTOR`; nobody imports it.

DESCRIPTOR: an open `tokenizer.json`, which somebody else wrote: its patterns may take any time and memory, so both are
bounded here. Reads and writes one JSON object a line: {text, special} -> {"ids": […], "offsets": [[from, to], …]}, and
first {"vocabulary": n} or {"error": …}.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

from tokenizers import Tokenizer

SECONDS = 60  # of the processor, for all texts
MEMORY = 3 * 2**30  # bytes beyond what the library takes
LARGEST = 128 * 2**20  # bytes of the file
LONGEST_REASON = 200


def say(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


def main(descriptor: int) -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with os.fdopen(descriptor, "rb") as given:
            tokenizer = Tokenizer.from_buffer(given.read(LARGEST))
    except Exception as error:  # noqa: BLE001  (the library raises plain exceptions)
        say(error=str(error).strip().split("\n", 1)[0][:LONGEST_REASON])
        return 1
    tokenizer.no_truncation()
    tokenizer.no_padding()
    say(vocabulary=tokenizer.get_vocab_size())
    for line in sys.stdin:
        request = json.loads(line)
        made = tokenizer.encode(request["text"], add_special_tokens=request["special"])
        say(ids=made.ids, offsets=made.offsets)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
