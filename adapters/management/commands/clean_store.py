from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _

from adapters import services


class Command(BaseCommand):
    help = "Remove stored copies that no adapter is served from, and what interrupted deletions left in LORA_ROOTS."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            removed = services.clean(options["dry_run"])
        except services.Busy:
            raise CommandError(_("An adapter is being activated or the store is being cleaned. Try again.")) from None
        for item in removed:
            self.stdout.write(f"{item.name}  {filesizeformat(item.size_bytes)}")
        values = {"count": len(removed), "size": filesizeformat(sum(item.size_bytes for item in removed))}
        if options["dry_run"]:
            self.stdout.write(_("%(count)d copies, %(size)s, would be removed.") % values)
        else:
            self.stdout.write(_("%(count)d copies, %(size)s, were removed.") % values)
        self._clean_roots(options["dry_run"])

    def _clean_roots(self, dry_run: bool) -> None:
        left = services.clean_roots(dry_run)
        if not left:
            return
        for item in left:
            self.stdout.write(f"{item.label}  {filesizeformat(item.size_bytes)}")
        values = {"count": len(left), "size": filesizeformat(sum(item.size_bytes for item in left))}
        if dry_run:
            self.stdout.write(_("%(count)d remains of interrupted deletions, %(size)s, would be removed.") % values)
        else:
            self.stdout.write(_("%(count)d remains of interrupted deletions, %(size)s, were removed.") % values)
