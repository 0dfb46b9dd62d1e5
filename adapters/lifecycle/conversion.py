"""`adapter_model.bin` -> safetensors, in a child process that may neither reach the network nor grow without bound."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from django.utils.translation import gettext_noop

import launching
from adapters import store
from adapters.failures import Refused
from adapters.formats.files import open_below
from adapters.formats.safetensors import Header, read_header
from adapters.places import Place
from adapters.training.layout import PICKLE

RESULT = "weights.safetensors"
CHILD = Path(__file__).with_name("conversion_child.py")
TIMEOUT = 120.0
MAX_BYTES = 4 * 2**30
REASONS = {
    3: gettext_noop("contains data other than tensors"),
    4: gettext_noop("not a mapping of tensors"),
    5: gettext_noop("too large"),
    6: gettext_noop("cannot be read"),
    7: gettext_noop("contains several mappings of tensors"),
}


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
        _run(source, scratch, size)
        with _result(scratch) as file:
            yield file, read_header(file, os.fstat(file.fileno()).st_size)


def _run(source: BinaryIO, scratch: Place, size: int) -> None:
    """The child writes `RESULT` into `scratch`, which it enters by its descriptor. Raises Refused."""
    environment = launching.of_these(PATH="/usr/bin:/bin", LANG="C.UTF-8", OMP_NUM_THREADS="1", HOME="/")
    words = [sys.executable, "-I", str(CHILD), str(scratch.descriptor), RESULT, str(size), str(os.getpid())]
    try:
        done = launching.run(words, environment, stdin=source, timeout=TIMEOUT, descriptors=(scratch.descriptor,))
    except launching.TookTooLongError:
        raise Refused("pickle_refused", reason=gettext_noop("reading took too long")) from None
    if done.status != 0:
        raise Refused("pickle_refused", reason=REASONS.get(done.status, gettext_noop("the file reader stopped")))


def _result(scratch: Place) -> BinaryIO:
    """What the child wrote: an ordinary file, not a link that foreign bytes made it leave there. Raises Refused."""
    gave_up = Refused("pickle_refused", reason=gettext_noop("the file reader stopped"))
    try:
        descriptor = scratch.open(RESULT)
    except OSError:
        raise gave_up from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise gave_up
    return os.fdopen(descriptor, "rb", buffering=0)  # type: ignore[return-value]
