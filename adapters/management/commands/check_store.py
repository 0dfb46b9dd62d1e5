from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from adapters import services
from adapters.failures import sentence
from adapters.hooks import PublishedFault
from adapters.lifecycle.checking import Checked
from adapters.lifecycle.mending import Outcome

TOLD_EVERY = 2.0  # seconds


class Command(BaseCommand):
    help = (
        "Read every stored copy in use and compare it with its content digest. A damaged copy is recreated from its "
        "training folder; if that is not possible, its adapters fail. What is published in FLEET_DIR is compared too, "
        "and published again where it is damaged. Exits with 1 if a copy is still damaged."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="only read and report damaged copies; change nothing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        told = time.monotonic()
        size = 0

        def tell(done: int, total: int, read: int) -> None:
            nonlocal told, size
            size = read
            if options["verbosity"] > 1 or time.monotonic() - told >= TOLD_EVERY:
                told = time.monotonic()
                self.stderr.write(f"{done}/{total}  {filesizeformat(read)}")

        found = services.check(None, options["dry_run"], tell)
        published = services.check_published(options["dry_run"])
        for copy in found:
            if copy.fault is not None:
                self.stdout.write(f"{copy.digest}  {', '.join(copy.names)}: {self._said(copy)}")
        for fault in published:
            self.stdout.write(f"{fault.digest}  {fault.name}: {published_said(fault)}")
        bad = sum(not copy.good for copy in found)
        values = {"count": len(found), "size": filesizeformat(size), "bad": bad}
        if bad:
            message = ngettext(
                "%(bad)d of %(count)d stored copy (%(size)s) is damaged.",
                "Damaged: %(bad)d of %(count)d stored copies (%(size)s).",
                len(found),
            )
            raise CommandError(message % values)
        if not all(fault.mended for fault in published):
            raise CommandError(_("A published copy in FLEET_DIR is damaged."))
        message = ngettext(
            "%(count)d stored copy (%(size)s) is intact.", "%(count)d stored copies (%(size)s) are intact.", len(found)
        )
        self.stdout.write(message % values)

    def _said(self, copy: Checked) -> str:
        assert copy.fault is not None  # noqa: S101  (for the type checker)
        reason = _(copy.fault.reason)
        if copy.outcome is None:
            return _("Damaged (%(reason)s).") % {"reason": reason}
        if copy.outcome is Outcome.BUSY:
            return _("Damaged (%(reason)s). Another operation on the adapter is in progress; try again.") % {
                "reason": reason
            }
        return sentence("store_mended" if copy.good else copy.fault.code, {"reason": copy.fault.reason})


def published_said(fault: PublishedFault) -> str:
    text = (
        _("The copy in FLEET_DIR was damaged (%(reason)s) and was published again.")
        if fault.mended
        else _("The copy in FLEET_DIR is damaged (%(reason)s).")
    )
    return text % {"reason": _(fault.reason)}
