"""`adapter_model.bin` -> safetensors, in a child process that may neither reach the network nor grow without bound."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from django.utils.translation import gettext_noop as _n

from adapters import store
from adapters.failures import Refused
from adapters.formats.files import open_below
from adapters.formats.safetensors import Header, read_header
from adapters.training.layout import PICKLE

CHILD = Path(__file__).with_name("conversion_child.py")
TIMEOUT = 120.0
MAX_BYTES = 4 * 2**30
REASONS = {3: _n("not only tensors"), 4: _n("not a table of tensors"), 5: _n("too large"), 6: _n("unreadable")}


@contextmanager
def converted(roots: tuple[str, ...], folder: str) -> Iterator[tuple[BinaryIO, Header]]:
    """The weights of `folder` as an open safetensors file with its header.

    It lies in the store, which has room for such files and is swept of what killed ones left. Raises Refused:
    pickle_refused, store_full, store_unwritable.
    """
    with ExitStack() as stack:
        with store.refusing_where_full():
            scratch, _lock = stack.enter_context(store.workspace("owner"))
        source = stack.enter_context(open_below(roots, folder, PICKLE))
        size = os.fstat(source.fileno()).st_size
        if size > MAX_BYTES:
            raise Refused("pickle_refused", reason=REASONS[5])
        target = scratch / "weights.safetensors"
        _run(source, target, size)
        with _result(target) as file:
            yield file, read_header(file, os.fstat(file.fileno()).st_size)


def _run(source: BinaryIO, target: Path, size: int) -> None:
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "HOME": str(target.parent)}
    try:
        done = subprocess.run(  # noqa: S603  (our own interpreter and our own file; the weights come as stdin)
            [sys.executable, "-I", str(CHILD), str(target), str(size), str(os.getpid())],
            stdin=source,
            capture_output=True,
            timeout=TIMEOUT,
            env=environment,
            cwd=target.parent,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Refused("pickle_refused", reason=_n("it took too long")) from None
    if done.returncode != 0:
        raise Refused("pickle_refused", reason=REASONS.get(done.returncode, _n("the reader gave up")))


def _result(target: Path) -> BinaryIO:
    """What the child wrote: an ordinary file, not a link that foreign bytes made it leave there. Raises Refused."""
    gave_up = Refused("pickle_refused", reason=_n("the reader gave up"))
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise gave_up from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise gave_up
    return os.fdopen(descriptor, "rb", buffering=0)  # type: ignore[return-value]
