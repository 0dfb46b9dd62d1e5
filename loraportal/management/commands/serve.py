from __future__ import annotations

import fcntl
import gc
import logging
import os
import sys
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from loraportal.prepare import make_folders, prepare
from loraportal.recovery import recover
from loraportal.setup.console import SetupError, report
from loraportal.setup.preflight import check_port

# A thread at heavy work gives the interpreter away this often. A page needs it a dozen times, once for each change of
# thread: by the default (5 ms) somebody's long import doubled the time of everybody's pages.
SWITCH_SECONDS = 0.0005


class Command(BaseCommand):
    help = "Serve the portal on HOST:PORT until it is stopped (Ctrl-C, SIGTERM)."
    requires_system_checks = ()  # `prepare` runs those that matter here, in its own words

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--prepare",
            action="store_true",
            help="first update database, static files and translations, and ensure that an admin exists",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            check_port(settings.HOST, settings.PORT)
            make_folders()
            held = hold_places()
            if options["prepare"]:
                prepare()
        except SetupError as trouble:
            raise CommandError(str(trouble)) from None
        recover()
        connections.close_all()
        with held:
            serve()


def hold_places() -> ExitStack:
    """Lock what only one portal may use. The locks end with the process. Raises SetupError where another has them."""
    held = ExitStack()
    held.enter_context(hold_var_dir())
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3") and ":" not in str(database["NAME"]):  # a file
        held.enter_context(hold_database(Path(database["NAME"])))
    return held


def hold_var_dir() -> IO[str]:
    """Two portals in one VAR_DIR would each take what the other has under way for its own."""
    return hold(
        settings.RUN_DIR / "portal.lock",
        f"{settings.VAR_DIR} is in use by another portal (process {{holder}}): stop that one,"
        " or start with a folder of its own, as in VAR_DIR=var2.",
    )


def hold_database(path: Path) -> IO[str]:
    """Several portals share a database server, never SQLite's file: each write locks all of it, and over a network its
    locks cannot be relied on."""
    return hold(
        path.with_name(f".{path.name}.portal"),
        f"{path} is in use by another portal (process {{holder}}): stop that one, or give each a database of its own."
        " Portals that are to be one need MySQL or MariaDB (DATABASE_URL).",
    )


def hold(path: Path, refusal: str) -> IO[str]:
    """An open, locked file with this process's number in it. `refusal`: what SetupError says, with `{holder}`."""
    try:
        file = open(path, "a+", encoding="ascii")
    except OSError as error:
        raise SetupError(
            f"{path.parent} cannot be written ({error.strerror}): correct VAR_DIR or DATABASE_URL."
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise SetupError(refusal.format(holder=holder)) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def serve() -> None:
    gc.disable()  # imports leave no garbage
    from common.lent_threads import lender
    from loraportal.asgi import application
    from loraportal.server.daphne_server import PortalServer

    logging.getLogger("daphne").setLevel(logging.WARNING)
    sys.setswitchinterval(SWITCH_SECONDS)
    server = PortalServer(application, settings.HOST, settings.PORT, listening)
    gc.freeze()  # what was imported stays: a full collection would hold everybody up to look at it
    gc.enable()
    server.run()
    lender.close()
    if server.abort_start:
        sys.exit(1)


def listening() -> None:
    from adapters.discovery import periodic_scan
    from evaluations.gates import judging, webhooks
    from evaluations.runs import queue
    from inference.manager import get_manager
    from inference.measuring.recorder import recorder

    announce()
    recorder.start()
    if settings.INFERENCE_BACKEND == "vllm":  # pages tell how many tokens it takes
        get_manager().look()
    periodic_scan.start()
    periodic_scan.start_store()
    queue.start(judging.turn)
    webhooks.start()


def announce() -> None:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.HOST, settings.HOST)  # noqa: S104
    shown = f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown
    report(f"LoRA Portal runs at http://{shown}:{settings.PORT}/  (Ctrl-C stops it)")
