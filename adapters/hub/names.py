"""Names of repositories and revisions. Both become parts of addresses: nothing in them may mean anything else there."""

from __future__ import annotations

import re

LONGEST_REPO = 193  # two names of 96 characters
LONGEST_REVISION = 200
PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?\Z")
REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9_-])?\Z")
COMMIT = re.compile(r"[0-9a-f]{40}\Z")
DEFAULT_REVISION = "main"


def is_repo(text: str) -> bool:
    """owner/name, as the hub allows names."""
    parts = text.split("/")
    if len(parts) != 2 or "--" in text or ".." in text or text.endswith(".git"):
        return False
    return all(map(PART.match, parts))


def is_revision(text: str) -> bool:
    """A branch, a tag, a commit or refs/pr/1, as git allows names."""
    if len(text) > LONGEST_REVISION or ".." in text or "//" in text or not REVISION.match(text):
        return False
    return not any(part.startswith(".") or part.endswith((".lock", ".")) for part in text.split("/"))
