"""One line for each step, one sentence for each failure."""

from __future__ import annotations

import os
import sys
import time

CLOCK = "LORAPORTAL_STARTED"  # handed on when one program becomes the next, so that the seconds go on
STARTED = float(os.environ.get(CLOCK) or time.monotonic())


class SetupError(Exception):
    """What went wrong and what to do about it, in one sentence."""


def report(text: str) -> None:
    """Announce a step with the seconds since the start."""
    sys.stdout.write(f"[{time.monotonic() - STARTED:5.1f} s] {text}\n")
    sys.stdout.flush()
