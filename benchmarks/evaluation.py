"""Four people chat, first alone, then beside an evaluation: how much longer do they wait for the first token?

    python -m benchmarks.evaluation --url http://127.0.0.1:8000 --token-file FILE --targets pirate,haiku,json-only

Asks a portal that runs, with its own models. `--token-file` holds a token with the scope `infer`. A set of `--items`
questions is evaluated on all targets in the background, while four people ask one target after another with a pause
between. Both halves come in turns, so that a slow minute of the machine counts for both: the evaluation is cancelled
and begun again with other questions. Prints one JSON object: median seconds to the first token of both halves, their
ratio, and the answers of the evaluation meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PEOPLE = 4
PAUSE = (0.5, 2.0)  # seconds in which a person reads
TOKENS = 40  # of a person's answer
SETTLING = 3.0  # seconds after a change, which do not count
WORDS = "sea ship wind storm harbour island map gold lantern whale anchor tide rope sail star night".split()


class Portal:
    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url.rstrip("/"), token

    def open(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310  (of the command)
        return urllib.request.urlopen(request, timeout=120)  # noqa: S310

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        try:
            with self.open(path, body, method) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{path}: {error.code} {error.read().decode(errors='replace')[:500]}") from None
        return json.loads(text) if text else None


def question(draw: random.Random) -> str:
    return f"Tell me about the {' and the '.join(draw.sample(WORDS, 3))}, number {draw.randrange(10**6)}."


class People:
    """They chat until `stop`; `half` says where the next waits are counted, None: nowhere."""

    def __init__(self, portal: Portal, targets: list[str]) -> None:
        self.portal, self.targets = portal, targets
        self.half: str | None = None
        self.waits: dict[str, list[float]] = {"alone": [], "beside": []}
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._chat, args=(number,), daemon=True) for number in range(PEOPLE)]

    def _chat(self, number: int) -> None:
        draw = random.Random(number)  # noqa: S311
        while not self.stop.is_set():
            half = self.half
            wait = self._first_token(draw)
            if half is not None and half == self.half:
                self.waits[half].append(wait)
            self.stop.wait(draw.uniform(*PAUSE))

    def _first_token(self, draw: random.Random) -> float:
        body = {
            "model": draw.choice(self.targets), "messages": [{"role": "user", "content": question(draw)}],
            "max_tokens": TOKENS, "stream": True,
        }  # fmt: skip
        began, first = time.monotonic(), 0.0
        with self.portal.open("/v1/chat/completions", body) as answer:
            for line in answer:
                if not first and line.startswith(b"data: {"):
                    if json.loads(line[6:])["choices"][0]["delta"].get("content"):
                        first = time.monotonic() - began
        return first or time.monotonic() - began


def evaluation(portal: Portal, targets: list[str], items: int, turn: int) -> tuple[int, int]:
    """Begins one with questions that were never asked: ids of the set and of the run."""
    draw = random.Random(time.time_ns())  # noqa: S311
    asked = [
        {"messages": [{"role": "user", "content": question(draw)}], "checks": [{"kind": "length", "least": 1}]}
        for _ in range(items)
    ]
    made = portal.call("/api/evaluations/sets", {"name": f"beside {turn} {time.time_ns()}", "items": asked})
    run = portal.call(
        "/api/evaluations/runs", {"prompts": made["id"], "targets": targets, "params": {"max_tokens": 64}}
    )
    return made["id"], run["id"]


def measure(portal: Portal, targets: list[str], items: int, turns: int, seconds: float) -> dict[str, Any]:
    for target in targets:  # in memory, before anything counts
        portal.call("/v1/completions", {"model": target, "prompt": "a", "max_tokens": 1})
    people = People(portal, targets)
    for thread in people.threads:
        thread.start()
    answered = 0
    for turn in range(turns):
        people.half = None
        time.sleep(SETTLING)
        people.half = "alone"
        time.sleep(seconds)
        people.half = None
        prompts, run = evaluation(portal, targets, items, turn)
        time.sleep(SETTLING)
        people.half = "beside"
        time.sleep(seconds)
        people.half = None
        found = portal.call(f"/api/evaluations/runs/{run}")
        answered += found["done"]
        if found["state"] in ("queued", "running"):
            portal.call(f"/api/evaluations/runs/{run}/cancel", {})
        portal.call(f"/api/evaluations/runs/{run}", method="DELETE")
        portal.call(f"/api/evaluations/sets/{prompts}", method="DELETE")
    people.stop.set()
    for thread in people.threads:
        thread.join(120)
    waits = {half: statistics.median(found) for half, found in people.waits.items()}
    return {
        "first_token_median_s": {half: round(wait, 4) for half, wait in waits.items()},
        "answers_of_people": {half: len(found) for half, found in people.waits.items()},
        "ratio": round(waits["beside"] / waits["alone"], 3),
        "answers_of_the_evaluation": answered,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--targets", required=True, help="names, with commas between")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each half of a turn")
    given = parser.parse_args()
    portal = Portal(given.url, given.token_file.read_text().strip())
    print(json.dumps(measure(portal, given.targets.split(","), given.items, given.turns, given.seconds), indent=1))


if __name__ == "__main__":
    main()
