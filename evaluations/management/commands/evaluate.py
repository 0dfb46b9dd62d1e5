from __future__ import annotations

import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from adapters.failures import BusyError
from adapters.leases import HeldLease
from common.api import ApiError
from evaluations import sets
from evaluations.models import PromptSet, Run, RunState, TargetState
from evaluations.runs import figures, making, queue

LOOK_EVERY = 1.0  # seconds


def share(text: str) -> float:
    """0.9 or 90%."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text!r} is no share: give one such as 0.9 or 90%")
    return value


class Command(BaseCommand):
    help = (
        "Run a prompt set over adapters or base models and print the pass rates. A running portal does the work in its "
        "queue; without one this command does it. Exits with 1 if a pass rate is below --fail-under, or if a model "
        "could not be asked."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--set", required=True, help="id of the prompt set, or its name")
        parser.add_argument("--adapter", required=True, action="append", help="slug of a model; may be repeated")
        parser.add_argument("--fail-under", type=share, default=None, help="lowest pass rate, such as 0.9 or 90%%")
        parser.add_argument("--user", default="", help="account that the run belongs to; by default the set's owner")
        parser.add_argument("--activate", action="store_true", help="activate inactive adapters; needs an operator")

    def handle(self, *args: Any, **options: Any) -> None:
        prompts = self._set(options["set"], options["user"])
        user = (
            User.objects.filter(username=options["user"], is_active=True).first() if options["user"] else prompts.owner
        )
        if user is None:
            raise CommandError(_("There is no active account named %(name)s.") % {"name": options["user"]})
        try:
            version = sets.version_of(sets.visible(user, prompts.pk))
            run = making.create(user, version, options["adapter"], activates=options["activate"])
        except ApiError as error:
            raise CommandError(f"{error.code}: {error.message}") from None
        self.stderr.write(f"evaluation {run.pk}: {prompts.name} v{version.number}")
        try:
            run = self._worked(run)
        except KeyboardInterrupt:
            run.cancel()
            raise CommandError(_("Cancelled.")) from None
        self._tell(run, options["fail_under"])

    def _set(self, named: str, username: str) -> PromptSet:
        rows = PromptSet.objects.select_related("owner")
        found = list(rows.filter(pk=int(named)) if named.isdecimal() and len(named) < 19 else rows.filter(name=named))
        own = [one for one in found if one.owner.get_username() == username]
        found = own or found
        if len(found) != 1:
            message = (
                _("Several prompt sets are named %(name)s: give the id.") if found else _("No prompt set: %(name)s.")
            )
            raise CommandError(message % {"name": named})
        return found[0]

    def _worked(self, run: Run) -> Run:
        """The run once it has ended, by whoever works on the queue: a portal, or else this process."""
        while run.is_under_way:
            try:
                with HeldLease(queue.LEASE) as lease:
                    while Run.objects.under_way().filter(pk=run.pk).exists():
                        queue.work_on_next(lease)
            except BusyError:
                time.sleep(LOOK_EVERY)
            run.refresh_from_db()
        return run

    def _tell(self, run: Run, bar: float | None) -> None:
        low = []
        for target in figures.targets_of(run):
            rate = target["pass_rate"]
            shown = f"{rate['share']:.1%} ({rate['low']:.1%}-{rate['high']:.1%})" if rate else "-"
            counts = f"{target['passed']}/{target['judged']}"
            loss = f"{target['loss']['loss']:.4f}" if target["loss"] else "-"
            facts = (target["slug"], shown, counts, target["digest"], target["code"], loss)
            self.stdout.write("\t".join(facts))
            if target["state"] != TargetState.DONE or (bar is not None and (not rate or rate["share"] < bar)):
                low.append(target["slug"])
        if run.state != RunState.DONE:
            raise CommandError(f"{run.state} {run.code} {run.message}".strip())
        if low:
            raise CommandError(_("Below the bar, or not asked: %(names)s.") % {"names": ", ".join(low)})
