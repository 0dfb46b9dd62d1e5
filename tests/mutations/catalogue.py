"""What can go wrong, what protects against it, how to take that away, and which tests must fail then."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

LISTED = Path(__file__).with_name("listed")


@dataclass(frozen=True)
class Mutation:
    """`before` occurs exactly once in `file`; `after` takes its place. Paths and test ids count from the project."""

    name: str
    section: str
    risk: str
    protection: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    hangs: bool = False  # without the protection a test runs into the time limit

    def applied(self, text: str) -> str:
        """Raises ValueError where the list is older than the file."""
        if (count := text.count(self.before)) != 1:
            raise ValueError(f"{self.file} holds the text {count} times")
        return text.replace(self.before, self.after)


def load(folder: Path = LISTED) -> list[Mutation]:
    """All mutations in the order of the files' names. Raises ValueError, TypeError for one that is not well-formed."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        listed = tomllib.loads(path.read_text(encoding="utf-8"))
        for risk in listed["risk"]:
            for entry in risk["mutation"]:
                tests = tuple(entry.pop("tests"))
                found.append(Mutation(section=listed["section"], risk=risk["risk"], tests=tests, **entry))
    return found


def table(mutations: list[Mutation]) -> str:
    """The tables of `docs/security.md`."""
    lines: list[str] = []
    section = risk = ""
    for one in mutations:
        if one.section != section:
            section = one.section
            lines += ["", f"### {section}", "", "| what goes wrong | protection | mutation | fails without it |"]
            lines += ["| --- | --- | --- | --- |"]
        tests = "<br>".join(f"`{test}`" for test in one.tests)
        lines.append(f"| {one.risk if one.risk != risk else ''} | {one.protection} | `{one.name}` | {tests} |")
        risk = one.risk
    return "\n".join(lines[1:]) + "\n"
