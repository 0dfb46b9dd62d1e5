from __future__ import annotations

import fcntl
import logging
import os
import sys
from argparse import ArgumentParser
from typing import IO, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from loraportal.prepare import make_folders, prepare
from loraportal.recovery import recover
from loraportal.setup.console import SetupError, report
from loraportal.setup.preflight import check_port


class Command(BaseCommand):
    help = "Serve the portal on HOST:PORT until it is told to stop (Ctrl-C, SIGTERM)."
    requires_system_checks = ()  # `prepare` runs those that matter here, in its own words

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--prepare",
            action="store_true",
            help="first bring database, static files and translations up to date and make sure of an admin",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            check_port(settings.HOST, settings.PORT)
            make_folders()
            held = hold_var_dir()
            if options["prepare"]:
                prepare()
        except SetupError as trouble:
            raise CommandError(str(trouble)) from None
        recover()
        connections.close_all()
        with held:
            serve()


def hold_var_dir() -> IO[str]:
    """Lock VAR_DIR: two portals over one database and store would each believe to be alone.

    The lock ends with the process. Raises SetupError where another portal holds it.
    """
    file = open(settings.RUN_DIR / "portal.lock", "a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise SetupError(
            f"{settings.VAR_DIR} is in use by another portal (process {holder}): stop that one,"
            " or start with a folder of its own, as in VAR_DIR=var2."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def serve() -> None:
    from loraportal.asgi import application
    from loraportal.server.daphne_server import PortalServer

    logging.getLogger("daphne").setLevel(logging.WARNING)
    server = PortalServer(application, settings.HOST, settings.PORT, listening)
    server.run()
    if server.abort_start:
        sys.exit(1)


def listening() -> None:
    from adapters.discovery import periodic_scan

    announce()
    periodic_scan.start_store()


def announce() -> None:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.HOST, settings.HOST)  # noqa: S104
    shown = f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown
    report(f"LoRA Portal runs at http://{shown}:{settings.PORT}/  (Ctrl-C stops it)")
