from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Any

from asgiref.sync import async_to_sync
from django.core.management.base import BaseCommand, CommandError

from adapters.models import LoraAdapter
from inference.backends.fleet.probe import QUESTION, TOKENS
from inference.backends.interface import OnVerdict, Request
from inference.backends.local import LocalBackend
from inference.engine.params import SamplingParams
from inference.errors import InferenceError
from inference.gateway.targets import of_adapter
from inference.manager import ModelManager, PartialAnswer, queue_limit, worker_options


class Command(BaseCommand):
    help = "Ask the engine on this machine what a fleet was asked when adapters were activated, and keep its answers."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("slug", nargs="*", help="these adapters; without any, all that a fleet was asked for")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = LoraAdapter.objects.active().select_related("base").order_by("name")
        if options["slug"]:
            rows = rows.filter(slug__in=options["slug"])
        chosen = [row for row in rows if row.promotion.get("probe")]
        if not chosen:
            raise CommandError("There is no such active adapter whose answer a fleet gave.")
        if find_spec("torch") is None:
            raise CommandError("The engine is not installed here: pip install -r requirements.txt")
        manager = ModelManager(local)
        same = 0
        try:
            for adapter in chosen:
                same += self.compare(manager, adapter)
        finally:
            manager.close()
        self.stdout.write(f"{same} of {len(chosen)} answer the same.")

    def compare(self, manager: ModelManager, adapter: LoraAdapter) -> bool:
        try:
            text = answer(manager, adapter)
        except InferenceError as error:
            self.stderr.write(f"{adapter.slug}: {error.message}")
            return False
        probe = {**adapter.promotion["probe"], "local_text": text}
        probe["same_as_local"] = text == probe["text"]
        report = {**adapter.promotion, "probe": probe}
        LoraAdapter.objects.filter(pk=adapter.pk, digest=adapter.digest).update(promotion=report)
        self.stdout.write(f"{adapter.slug}: {'the same' if probe['same_as_local'] else 'another answer'}")
        return bool(probe["same_as_local"])


def local(on_verdict: OnVerdict) -> LocalBackend:
    return LocalBackend(worker_options(), limit=queue_limit())


def answer(manager: ModelManager, adapter: LoraAdapter) -> str:
    """Raises InferenceError."""
    target = of_adapter(adapter)
    params = SamplingParams(temperature=0, max_tokens=TOKENS, repetition_penalty=1.0)
    request = Request("", target.base, target.adapter, QUESTION, params=params)

    async def ask() -> str:
        gathering = PartialAnswer()
        async with await manager.generate(request) as stream:
            async for event in stream:
                if event["type"] == "error":
                    raise InferenceError.from_event(event)
                if whole := gathering.add(event):
                    return whole.text
        raise InferenceError("engine_error")

    return str(async_to_sync(ask)())
