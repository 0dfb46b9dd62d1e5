"""What a repository holds at one commit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """`sha256`: of a file in large-file storage; `blob`: git's object id of any other. Either may be unknown ("")."""

    path: str
    size: int
    sha256: str = ""
    blob: str = ""


@dataclass(frozen=True)
class Snapshot:
    commit: str
    files: tuple[RemoteFile, ...]
