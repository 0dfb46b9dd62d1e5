from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from adapters import services


class Command(BaseCommand):
    help = (
        "Remove stored copies and published adapters (FLEET_DIR) that no adapter uses, and folders that interrupted "
        "deletions left in LORA_ROOTS."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only report what would be removed")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            removed = services.clean(options["dry_run"])
        except services.BusyError:
            raise CommandError(_("An adapter is being activated or the store is being cleaned. Try again.")) from None
        for item in removed:
            self.stdout.write(f"{item.name}  {filesizeformat(item.size_bytes)}")
        values = {"count": len(removed), "size": filesizeformat(sum(item.size_bytes for item in removed))}
        if options["dry_run"]:
            message = ngettext(
                "%(count)d stored copy (%(size)s) would be removed.",
                "%(count)d stored copies (%(size)s) would be removed.",
                len(removed),
            )
        else:
            message = ngettext(
                "%(count)d stored copy (%(size)s) was removed.",
                "%(count)d stored copies (%(size)s) were removed.",
                len(removed),
            )
        self.stdout.write(message % values)
        self._clean_published(options["dry_run"])
        self._clean_roots(options["dry_run"])

    def _clean_published(self, dry_run: bool) -> None:
        try:
            gone = services.sweep_published(dry_run)
        except OSError as error:
            raise CommandError(_("FLEET_DIR cannot be read: %(reason)s") % {"reason": error.strerror}) from None
        if not gone:
            return
        for item in gone:
            self.stdout.write(f"{item.name}  {filesizeformat(item.size_bytes)}")
        values = {"count": len(gone), "size": filesizeformat(sum(item.size_bytes for item in gone))}
        if dry_run:
            message = ngettext(
                "%(count)d folder (%(size)s) would be removed from FLEET_DIR.",
                "%(count)d folders (%(size)s) would be removed from FLEET_DIR.",
                len(gone),
            )
        else:
            message = ngettext(
                "%(count)d folder (%(size)s) was removed from FLEET_DIR.",
                "%(count)d folders (%(size)s) were removed from FLEET_DIR.",
                len(gone),
            )
        self.stdout.write(message % values)

    def _clean_roots(self, dry_run: bool) -> None:
        left = services.clean_roots(dry_run)
        if not left:
            return
        for item in left:
            self.stdout.write(f"{item.label}  {filesizeformat(item.size_bytes)}")
        values = {"count": len(left), "size": filesizeformat(sum(item.size_bytes for item in left))}
        if dry_run:
            message = ngettext(
                "%(count)d folder left by an interrupted deletion (%(size)s) would be removed.",
                "%(count)d folders left by interrupted deletions (%(size)s) would be removed.",
                len(left),
            )
        else:
            message = ngettext(
                "%(count)d folder left by an interrupted deletion (%(size)s) was removed.",
                "%(count)d folders left by interrupted deletions (%(size)s) were removed.",
                len(left),
            )
        self.stdout.write(message % values)
