from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from adapters import services
from adapters.bases import support
from adapters.discovery.passed_over import passed_over
from adapters.models import BaseModel, LoraAdapter


class Command(BaseCommand):
    help = "Scan LORA_ROOTS for adapters and check them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--root", action="append", help="only this root of LORA_ROOTS; may be repeated")
        parser.add_argument("--json", action="store_true", help="print the summary as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            summary = services.scan(None, options["root"])
        except services.BusyError:
            raise CommandError(_("A scan is already running.")) from None
        except ValueError as error:
            raise CommandError(str(error)) from None
        support.wait()
        if options["json"]:
            self.stdout.write(json.dumps(vars(summary)))
            return
        self.stdout.write(
            ngettext(
                "%(found)d adapter found (%(new)d new, %(changed)d changed); "
                "%(missing)d missing, %(incomplete)d incomplete.",
                "%(found)d adapters found (%(new)d new, %(changed)d changed); "
                "%(missing)d missing, %(incomplete)d incomplete.",
                summary.found,
            )
            % vars(summary)
        )
        for sentence, count, places in (passed_over() or {}).get("reasons", ()):
            self.stdout.write(f"  {count} × {sentence} {', '.join(places)}")
        for base in BaseModel.objects.filter(missing=False).exclude(problem_code="").order_by("name"):
            self.stdout.write(f"  {base.name}: {base.problem_code}: {base.problem_message}")
        for adapter in LoraAdapter.objects.failed().filter(missing=False).order_by("path")[:50]:
            self.stdout.write(f"  {adapter.path_label}: {adapter.failure_code}: {adapter.failure_message}")
