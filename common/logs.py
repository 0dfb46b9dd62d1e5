"""One line per record: names with control characters must not forge log lines."""

from __future__ import annotations

import copy
import logging
import re

from .request_ids import request_id

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]|\n(?!\s|Traceback)")


class RequestIdFilter(logging.Filter):
    """Gives each record the id of the request in hand, "" where there is none."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


class LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, "status_code", 500) < 500:  # a refused request is no fault of ours: its line says all
            record = copy.copy(record)
            record.exc_info = record.exc_text = None
        text = super().format(record)
        return CONTROL.sub(lambda m: m.group(0).encode("unicode_escape").decode("ascii"), text)
