"""One folder, copy or base model that leads to an error nobody thought of must not end the work on all others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import InterfaceError, OperationalError

from adapters.failures import BusyError

logger = logging.getLogger(__name__)


@contextmanager
def contained(what: str, *args: object) -> Iterator[None]:
    """Log an unexpected error within, with its traceback, and go on after the block. `what` and `args` as in logging.

    What concerns all of the work goes through: the lock was lost (BusyError), or the database is away.
    """
    try:
        yield
    except (BusyError, OperationalError, InterfaceError):
        raise
    except Exception:
        logger.exception(what, *args)
