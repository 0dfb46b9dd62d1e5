"""What an adapter's files hold, told from a little of them, so that a folder is known again wherever it lies.

A scan of thousands of adapters cannot read them whole. Another step of training changes every sample; what is served is
still told by the digest of all bytes (`adapters/store.py`).
"""

from __future__ import annotations

import hashlib
import os

from adapters.failures import Refused
from adapters.identifiers import UNKNOWN

from .config import LIMIT
from .files import open_below, read_exactly, read_small

SAMPLES, SAMPLE_BYTES = 16, 16 * 1024


def content_key(roots: tuple[str, ...], folder: str, config: str, *weights: str) -> str:
    """sha256 over the config, and over the size and evenly spread samples of each file of weights."""
    digest = hashlib.sha256()
    try:
        digest.update(hashlib.sha256(read_small(roots, folder, config, LIMIT)).digest())
        for name in weights:
            with open_below(roots, folder, name) as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{name} {size}".encode())
                for index in range(SAMPLES):
                    file.seek(index * max(SAMPLE_BYTES, (size - SAMPLE_BYTES) // (SAMPLES - 1)))
                    digest.update(read_exactly(file, SAMPLE_BYTES))
    except (Refused, OSError):
        return UNKNOWN
    return digest.hexdigest()
