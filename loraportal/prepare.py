"""Bring database, static files and translations up to date before serving; quick where nothing has changed."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.checks import ERROR, run_checks
from django.core.checks.registry import registry
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from common.messages import compile_messages
from loraportal.setup.console import SetupError, report

TURN_SECONDS = 600  # that a portal waits for another one's migrations


def prepare() -> None:
    """All steps. Raises SetupError with one sentence where one cannot be done."""
    translate()
    collect_static()
    check()
    with in_turn():
        migrate()
        ensure_admin()


@contextmanager
def in_turn() -> Iterator[None]:
    """Portals that start together on one database server change its tables one after another.

    The lock is the server's own, since there may be no table yet, and ends with the connection. SQLite has one portal.
    """
    if connection.vendor != "mysql":
        yield
        return
    name = f"loraportal {connection.settings_dict['NAME']}"[:64]
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT GET_LOCK(%s, %s)", [name, TURN_SECONDS])
            if cursor.fetchone() != (1,):
                raise SetupError("Another portal has been changing this database for long: look at its log.")
    except DatabaseError as error:
        raise unusable(error) from None
    try:
        yield
    finally:
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT RELEASE_LOCK(%s)", [name])


def make_folders() -> None:
    own = [settings.STORE_DIR, settings.LOG_DIR, settings.RUN_DIR, settings.UPLOADS_DIR, settings.EXPORTS_DIR]
    try:
        for folder in own:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"VAR_DIR {settings.VAR_DIR} cannot be written ({error.strerror}): set VAR_DIR to another folder."
        ) from None


def translate() -> None:
    try:
        written = compile_messages(settings.LOCALE_PATHS)
    except OSError as error:
        raise SetupError(f"A translation cannot be compiled ({error}): mend the file and start again.") from None
    if written:
        report(f"Translations: {len(written)} compiled")


def static_fingerprint() -> str:
    """Changes when any static file of any app does."""
    digest = hashlib.sha256(settings.STORAGES["staticfiles"]["BACKEND"].encode())
    for finder in get_finders():
        for path, storage in finder.list(None):
            status = Path(storage.path(path)).stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


UNUSED = ["redoc", "rest_framework"]  # folders of libraries that no page of ours needs: two fifths of all bytes


def collect_static() -> None:
    mark = Path(settings.STATIC_ROOT) / ".fingerprint"
    try:
        fingerprint = static_fingerprint()
        if mark.exists() and mark.read_text(encoding="ascii") == fingerprint:
            return
        report("Static files: collecting")
        mark.unlink(missing_ok=True)  # cut off in the middle, this is not the collection that it names
        call_command("collectstatic", interactive=False, verbosity=0, clear=True, ignore_patterns=UNUSED)
        mark.write_text(fingerprint, encoding="ascii")
    except ValueError as error:  # a style sheet names a file that is not there
        raise SetupError(f"Static files cannot be collected ({error}): run make css and start again.") from None
    except OSError as error:
        raise SetupError(
            f"Static files cannot be written to {settings.STATIC_ROOT} ({error.strerror}): free space or set VAR_DIR."
        ) from None


def check() -> None:
    """Settings that cannot work, each with its hint; warnings are only said."""
    tags = registry.tags_available() - {"models", "urls"}  # those are about code, not about this machine
    found = run_checks(tags=sorted(tags))
    errors = [message for message in found if message.level >= ERROR and not message.is_silenced()]
    for message in found:
        if message not in errors and not message.is_silenced():
            report(f"Note: {message.msg} {message.hint or ''} ({message.id})")
    if errors:
        raise SetupError("\n".join(f"{error.msg} {error.hint or ''} ({error.id})" for error in errors))


def migrate() -> None:
    try:
        connection.ensure_connection()
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if plan:
            report(f"Database: {len(plan)} migrations")
            call_command("migrate", interactive=False, verbosity=0)
    except DatabaseError as error:
        raise unusable(error) from None


def unusable(error: DatabaseError) -> SetupError:
    return SetupError(
        f"The database {database_label()} does not work ({str(error).splitlines()[0]}):"
        " check DATABASE_URL, that its server runs and that its disk has space."
    )


def database_label() -> str:
    """DATABASE_URL without its password."""
    return re.sub(r"//[^@/]*@", "//…@", settings.DATABASE_URL)


def ensure_admin() -> None:
    out = io.StringIO()
    call_command("ensure_admin", stdout=out)
    if out.getvalue():
        report(out.getvalue().strip())
