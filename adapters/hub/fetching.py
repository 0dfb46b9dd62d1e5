"""One file of a repository, from where it has arrived so far to its end, and compared with what the hub says it is."""

from __future__ import annotations

import hashlib
import os
import time
from types import ModuleType
from typing import Protocol

from adapters.failures import Refused
from adapters.models import HubImport
from adapters.places import Place
from adapters.uploads.arriving import alone

from .reaching import LostError
from .snapshots import RemoteFile

PAUSES = (0.5, 2.0, 5.0)  # seconds, before a broken connection is made again
PIECE = 1 << 20


class Teller(Protocol):
    """Who is told of every piece, and ends it where nobody wants it any more."""

    @property
    def seconds_left(self) -> float: ...

    def tell(self, count: int) -> None: ...


def fetch(client: ModuleType, row: HubImport, place: Place, index: int, file: RemoteFile, job: Teller) -> None:
    """Raises Refused, CancelledError, BusyError, ApiError, OSError."""
    with alone(place, str(index)) as descriptor:
        arrived = os.fstat(descriptor).st_size
        if arrived > file.size:  # (the sizes belong to the upload's id)
            os.ftruncate(descriptor, arrived := 0)
        job.tell(arrived)
        attempt = 0
        while arrived < file.size:
            before = arrived
            try:
                arrived = _rest(client, row, place, descriptor, arrived, file, job)
            except LostError:
                arrived = os.fstat(descriptor).st_size
            attempt = 0 if arrived > before else attempt
            if arrived < file.size:
                if attempt >= len(PAUSES):
                    raise Refused("import_unreachable", host=row.hub)
                _wait(PAUSES[attempt], job)
                attempt += 1
        if not _is_right(descriptor, file, job):
            raise Refused("import_digest", file=file.path)


def _rest(
    client: ModuleType, row: HubImport, place: Place, descriptor: int, offset: int, file: RemoteFile, job: Teller
) -> int:
    """Write what the hub has from there on; returns how much there is then."""
    with client.reading(row.repo, row.commit, file, offset, job.seconds_left) as (start, pieces):
        if start != offset:  # it sends all of it again
            os.ftruncate(descriptor, start)
            job.tell(start - offset)
            offset = start
        for piece in pieces:
            if offset + len(piece) > file.size:
                raise Refused("import_bad_answer", reason="Content-Length")
            view = memoryview(piece)
            while view:
                written = os.pwrite(descriptor, view, offset)
                offset += written
                view = view[written:]
            os.utime(place.descriptor)  # a sign of life
            job.tell(len(piece))
    return offset


def _wait(seconds: float, job: Teller) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
        job.tell(0)


def _is_right(descriptor: int, file: RemoteFile, job: Teller) -> bool:
    """What lies on the disk, against the sum that the hub names; true where it names none."""
    if file.sha256:
        made, wanted = hashlib.sha256(), file.sha256
    elif file.blob:  # as git counts it
        made, wanted = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False), file.blob
    else:
        return True
    offset = 0
    while data := os.pread(descriptor, PIECE, offset):
        made.update(data)
        offset += len(data)
        job.tell(0)
    return made.hexdigest() == wanted
