from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _

from adapters import services
from adapters.failures import sentence
from adapters.lifecycle.checking import Checked
from adapters.lifecycle.mending import Outcome

TOLD_EVERY = 2.0  # seconds


class Command(BaseCommand):
    help = (
        "Read every stored copy that is served and compare it with its name. A bad one is made again from its training "
        "folder; where that is not possible, its adapters fail. Exits with 1 where a copy stays bad."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only read and say what is bad; change nothing")

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
        for copy in found:
            if copy.fault is not None:
                self.stdout.write(f"{copy.digest}  {', '.join(copy.names)}: {self._said(copy)}")
        bad = sum(not copy.good for copy in found)
        values = {"count": len(found), "size": filesizeformat(size), "bad": bad}
        if bad:
            raise CommandError(_("%(bad)d of %(count)d copies, %(size)s, are bad.") % values)
        self.stdout.write(_("%(count)d copies, %(size)s, are what their names say.") % values)

    def _said(self, copy: Checked) -> str:
        assert copy.fault is not None  # noqa: S101  (for the type checker)
        reason = _(copy.fault.reason)
        if copy.outcome is None:
            return reason
        if copy.outcome is Outcome.BUSY:
            return _("%(reason)s; somebody else is at the adapter: try again") % {"reason": reason}
        return sentence("store_mended" if copy.good else copy.fault.code, {"reason": copy.fault.reason})
