"""What the last scan passed over, and why."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from adapters.failures import CHECK_FAILED
from adapters.models import Scan, ScanState
from adapters.training.layout import MAX_NOTES

SHOWN = 5  # places for each reason
REASONS: dict[str, Promise] = {
    "root_missing": _("This LORA_ROOTS folder does not exist, or its disk is not mounted."),
    "root_is_adapter": _("This LORA_ROOTS folder is itself an adapter. Specify its parent folder instead."),
    "pissa_start": _("Initial state of a PiSSA training run; the run itself and pissa_converted are the adapters."),
    "half_saved": _("A checkpoint that has not been saved completely; it is renamed once saving is complete."),
    "unreadable": _("The server has no permission to read this folder."),
    CHECK_FAILED: _("The folder could not be checked because of an unexpected error; see the server log."),
    "outside_root": _("The link points outside the configured folders. Add its target to LORA_ROOTS."),
    "too_deep": _("This folder has subfolders below the maximum scan depth."),
    "too_many_entries": _("The folder has too many entries; not all of them were scanned."),
    "bad_name": _("The name is too long or contains characters that cannot be displayed."),
}


def passed_over() -> dict[str, Any] | None:
    """Of the last scan that came to its end: `count`, whether there are `more`, and `reasons`, a list of (sentence,
    count, some of the places). None where nothing was passed over."""
    scan = Scan.objects.filter(state=ScanState.DONE).only("notes").first()
    if scan is None or not scan.notes:
        return None
    places: dict[str, list[str]] = defaultdict(list)
    for note in scan.notes:
        places[note["code"]].append(note["path"])
    reasons = [(REASONS.get(code, code), len(paths), paths[:SHOWN]) for code, paths in places.items()]
    return {"count": len(scan.notes), "more": len(scan.notes) >= MAX_NOTES, "reasons": reasons}
