"""Exceptions that nobody foresaw: each belongs to one request or one load, is logged with its traceback and counted.

Libraries written in Rust (tokenizers, safetensors, llguidance) panic with exceptions that are not an `Exception`, so
whoever calls them catches BaseException; `ENDS_PROCESS` are those that are meant to end the process.
"""

from __future__ import annotations

import logging
import threading

from .errors import EngineError, UnforeseenError

logger = logging.getLogger(__name__)

ENDS_PROCESS = (KeyboardInterrupt, SystemExit, GeneratorExit)
LONGEST_REASON = 200  # characters; a reason is shown in a sentence


def one_line(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says, bounded."""
    said = str(error).strip().split("\n", 1)[0].strip().rstrip(".")
    kind = type(error).__name__
    return (f"{kind}: {said}" if said else kind)[:LONGEST_REASON]


def unforeseen(error: BaseException, code: str = "internal_error") -> UnforeseenError:
    """An exception as the error of the request or load that it ended."""
    reason = one_line(error)
    made = UnforeseenError(code, f"An unforeseen error: {reason}.", reason=reason)
    made.__cause__ = error
    return made


class Faults:
    """The record of one worker. `count` is the number of unforeseen exceptions since it began."""

    def __init__(self) -> None:
        self.count = 0
        self.lock = threading.Lock()  # commands are read on a thread of their own

    def caught(self, error: BaseException, during: str, code: str = "internal_error") -> EngineError:
        """What to tell whoever the exception ended. An EngineError was foreseen and passes as it is; so is a lack of
        memory.

        Raises the exception again where it is meant to end the process.
        """
        if isinstance(error, ENDS_PROCESS):
            raise error
        if isinstance(error, EngineError) and not isinstance(error, UnforeseenError):
            return error
        if isinstance(error, MemoryError):
            logger.warning("memory ran out while %s", during)
            return EngineError("out_of_memory", f"Memory ran out while {during}.")
        failure = error if isinstance(error, UnforeseenError) else unforeseen(error, code)
        with self.lock:
            self.count += 1
        cause = failure.__cause__ or failure
        logger.error("unforeseen while %s: %s", during, one_line(cause), exc_info=cause)
        return failure
