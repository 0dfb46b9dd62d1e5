from __future__ import annotations

import re
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import translation

from adapters.failures import FAILURES

AREAS = {
    "files": "Files",
    "config": "adapter_config.json",
    "weights": "Weights",
    "repair": "Repairs: what can be put right without loss",
    "base": "Base models",
    "effect": "Effect and engine",
    "store": "Store",
    "merge": "Merging into the base model",
    "import": "Importing from a hub",
    "fleet": "Fleet",
    "gate": "Gates",
    "remark": "Remarks, which stop nothing",
}
HEAD = """# Failure codes

Why an adapter or a base model is not used, by the stable code that the API, the pages and the admin show.
This page is written by `manage.py failure_codes`; change `adapters/failures.py` instead.
"""


def document() -> str:
    """The page, in English."""
    with translation.override("en"):
        parts = [HEAD]
        for area, title in AREAS.items():
            parts.append(f"## {title}\n\n| code | what is wrong | what to do |\n| --- | --- | --- |")
            parts += [
                f"| `{failure.code}` | {_cell(str(failure.sentence))} | {_cell(str(failure.remedy))} |"
                for failure in FAILURES.values()
                if failure.area == area
            ]
            parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _cell(text: str) -> str:
    return re.sub(r"%\((\w+)\)s", r"*\1*", text).replace("|", "\\|")


class Command(BaseCommand):
    help = "Write the table of failure codes (docs/failure-codes.md) to standard output."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(document(), ending="")
