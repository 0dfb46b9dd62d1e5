"""Opening files below a root so that no link, no pipe and no swap in between leads elsewhere."""

from __future__ import annotations

import errno
import json
import json.scanner
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from django.utils.translation import gettext_noop

from adapters.failures import Refused
from adapters.places import Elsewhere, open_root

QUICK_JSON = 2**20  # bytes; what the decoder in C reads in some 20 ms


def inside(path: str, roots: tuple[str, ...]) -> bool:
    """True where the resolved `path` is one of the resolved `roots` or lies below one."""
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _open_without_links(path: str) -> int:
    """A descriptor of the absolute, already resolved `path`; a link that was swapped in on the way is refused."""
    folder, name = os.path.split(path)
    with open_root(folder) as held:
        return held.open(name)


@contextmanager
def open_below(roots: tuple[str, ...], folder: str, name: str) -> Iterator[BinaryIO]:
    """The file `folder/name` for reading, guaranteed to be a regular file below one of the resolved `roots`.

    Links inside the roots are followed. Raises Refused: files_missing, outside_root, not_a_file, unreadable.
    """
    try:
        real = os.path.realpath(os.path.join(folder, name), strict=True)
        if not inside(real, roots):
            raise Refused("outside_root", file=name)
        descriptor = _open_without_links(real)
    except (FileNotFoundError, NotADirectoryError):
        raise Refused("files_missing", file=name) from None
    except OSError as error:
        if isinstance(error, Elsewhere) or error.errno == errno.ELOOP:
            raise Refused("outside_root", file=name) from None
        raise Refused("unreadable", file=name, reason=os.strerror(error.errno or 0)) from None
    except ValueError:  # a NUL in the name
        raise Refused("unreadable", file=name.replace("\0", "?"), reason=gettext_noop("the name is invalid")) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused("not_a_file", file=name)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file  # type: ignore[misc]


def read_exactly(file: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes; fewer only at the end of the file."""
    pieces: list[bytes] = []
    while size > 0:
        piece = file.read(min(size, 1 << 20))
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def read_small(roots: tuple[str, ...], folder: str | Path, name: str, limit: int) -> bytes:
    """The whole of a file of at most `limit` bytes. Raises Refused as `open_below`, and config_too_large."""
    with open_below(roots, str(folder), name) as file:
        try:
            data = read_exactly(file, limit + 1)
        except OSError as error:
            raise Refused("unreadable", file=name, reason=os.strerror(error.errno or 0)) from None
    if len(data) > limit:
        raise Refused("config_too_large", file=name, limit=limit)
    return data


class _StrictError(ValueError):
    """Valid for Python's reader, not for JSON."""


def _constant(_word: str) -> float:
    raise _StrictError(gettext_noop("it contains NaN or Infinity"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _StrictError(gettext_noop("a key occurs twice"))
    return found


def _interruptible(**hooks: Any) -> json.JSONDecoder:
    """A decoder in Python: some seven times slower than the one in C, which lets no other thread run until it is done.

    For 32 MB that was up to three seconds, in which the whole site stood still.
    """
    decoder = json.JSONDecoder(**hooks)
    decoder.scan_once = json.scanner.py_make_scanner(decoder)  # type: ignore[attr-defined]
    return decoder


def parse_json(data: bytes, name: str, strict: bool = True) -> Any:
    """JSON of a file that somebody else wrote. `strict` refuses NaN, Infinity and double keys.

    Raises Refused("config_malformed").
    """
    hooks: dict[str, Any] = {"parse_constant": _constant, "object_pairs_hook": _unique} if strict else {}
    try:
        if len(data) <= QUICK_JSON:
            return json.loads(data, **hooks)
        return _interruptible(**hooks).decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except RecursionError:
        raise Refused("config_malformed", file=name, reason=gettext_noop("nested too deeply")) from None
    except json.JSONDecodeError as error:
        where = {"line": error.lineno, "column": error.colno}
        raise Refused(
            "config_malformed", file=name, reason=gettext_noop("line %(line)s, column %(column)s"), **where
        ) from None
    except _StrictError as error:
        raise Refused("config_malformed", file=name, reason=str(error)) from None
    except UnicodeDecodeError:
        raise Refused("config_malformed", file=name, reason=gettext_noop("not UTF-8")) from None
    except ValueError:
        raise Refused("config_malformed", file=name, reason=gettext_noop("a number has too many digits")) from None
