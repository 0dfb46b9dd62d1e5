"""`python -m demo.held_out pirate > prompts.jsonl`: a prompt set of the rows that a demo training held out.

Each row is asked as it was evaluated in training, its answer is the reference, and the checks say what the adapter was
trained for: its manner, and the loss of the reference.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .recipes import RECIPES, Recipe

DATA = Path(__file__).with_name("data")
OBJECT = {"type": "object", "required": ["answer", "topic"]}
CHECKS: dict[str, list[dict[str, Any]]] = {
    "pirate": [{"kind": "pattern", "value": r"(?i)\b(arr|matey|ye)\b"}],
    "json_only": [{"kind": "schema", "schema": OBJECT}],
}


def items(recipe: Recipe) -> list[dict[str, Any]]:
    """In the training's order, as an import of a prompt set takes them."""
    lines = (DATA / f"{recipe.data}.jsonl").read_text(encoding="utf-8").splitlines()[-recipe.eval_rows :]
    checks = [*CHECKS.get(recipe.data, ()), {"kind": "loss"}]
    turns = [json.loads(line)["messages"] for line in lines]
    return [{"messages": asked, "reference": answer["content"], "checks": checks} for *asked, answer in turns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("name", choices=sorted(RECIPES))
    for item in items(RECIPES[parser.parse_args().name]):
        print(json.dumps(item, ensure_ascii=False))


if __name__ == "__main__":
    main()
