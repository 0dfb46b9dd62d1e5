"""One line per record: names with control characters must not forge log lines."""

from __future__ import annotations

import logging
import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]|\n(?!\s|Traceback)")


class LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return CONTROL.sub(lambda m: m.group(0).encode("unicode_escape").decode("ascii"), text)
