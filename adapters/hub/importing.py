"""An import as a job: ask the hub which commit and files are meant, see that there is room, fetch, compare, publish.

What is fetched lies where an upload lies while it arrives, and becomes a folder of the account's in the same way. An
import that was cut off, by a lost connection or with its process, goes on where it ended when it is asked for again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_noop

from adapters import jobs
from adapters.discovery.scanning import scan
from adapters.failures import BusyError, Refused
from adapters.files import removal
from adapters.leases import HeldLease
from adapters.models import EventKind, HubImport, JobState, LoraAdapter
from adapters.places import Place
from adapters.uploads import arriving, finishing
from adapters.uploads.arriving import MANIFEST, Upload, alone
from adapters.uploads.refusals import FULL
from common.api import ApiError

from . import choosing, hosts
from .fetching import fetch
from .snapshots import RemoteFile, Snapshot

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

logger = logging.getLogger(__name__)

AT_ONCE = 2  # of all accounts
PER_HOUR = 60  # that one account begins
WHOLE_SECONDS = 6 * 3600.0  # of one import
KEPT_ROWS = 50  # of one account, that have ended
PAUSE = 0.2  # seconds between looks whether a scan has ended
SCAN_PATIENCE = 300.0  # seconds
INTERRUPTED = "import_interrupted"
# After these the same may succeed: what has arrived is kept for a day.
PASSING = {"import_unreachable", "import_too_long", "import_rate_limited"}


class TooManyError(Exception):
    """The account has begun too many within an hour."""


def begin(actor: AbstractBaseUser, repo: str, revision: str) -> HubImport:
    """Start to import; `repo` and `revision` are well-formed. Raises BusyError, TooManyError."""
    jobs.end_interrupted(HubImport, INTERRUPTED)
    own = HubImport.objects.filter(actor_id=actor.pk)
    if own.filter(created_at__gt=timezone.now() - timedelta(hours=1)).count() >= PER_HOUR:
        raise TooManyError
    if own.filter(state=JobState.RUNNING, repo=repo, revision=revision).exists():
        raise BusyError("import_running")
    with ExitStack() as held:
        slot, hold = _slot()
        held.push(hold)
        jobs.fail_others(HubImport, hold.name, INTERRUPTED)
        row = HubImport.objects.create(
            slot=slot, hub=hosts.hub_name(), repo=repo, revision=revision, actor_id=actor.pk,
            actor_name=actor.get_username(),
        )  # fmt: skip
        _Importing(row, hold).start()
        held.pop_all()  # it frees the lock
    return row


def _slot() -> tuple[int, HeldLease]:
    """A place among those that run at once; its lock is held. Raises BusyError."""
    for slot in range(AT_ONCE):
        hold = HeldLease(HubImport(slot=slot).lease, "imports_busy")
        with suppress(BusyError):
            return slot, hold.__enter__()
    raise BusyError("imports_busy")


def remove(row: HubImport) -> None:
    """Of one that has ended: the row, and what is kept of an unfinished one. Raises OSError."""
    others = HubImport.objects.filter(actor_id=row.actor_id).exclude(pk=row.pk)
    same = Q(state=JobState.RUNNING, repo=row.repo) | Q(state=JobState.FAILED, upload_key=row.upload_key)
    again = others.filter(same)  # which goes on with it, or may
    if row.upload_key and row.actor_id is not None and row.state != JobState.DONE and not again.exists():
        with suppress(FileNotFoundError, ApiError):
            arriving.cancel(row.actor_id, row.upload_key, fetched=True)
    row.delete()


def adapters_of(row: HubImport) -> Any:
    """The adapters in the folder that an import made, where it lies as it was made."""
    if not row.folder:
        return LoraAdapter.objects.none()
    path = finishing.path_of(row.folder)
    return LoraAdapter.objects.filter(Q(path=path) | Q(path__startswith=f"{path}/")).order_by("path")


class _Importing(jobs.Job):
    failed = "import_failed"
    row: HubImport

    def __init__(self, row: HubImport, hold: HeldLease) -> None:
        super().__init__(row, hold)
        self.until = time.monotonic() + WHOLE_SECONDS
        self.received = 0

    def ended(self, state: JobState) -> None:
        logger.info("import of %s from %s: %s", self.row, self.row.hub, state)
        if self.row.actor_id is not None:
            own = HubImport.objects.filter(actor_id=self.row.actor_id).exclude(state=JobState.RUNNING)
            old = list(own.values_list("pk", flat=True)[KEPT_ROWS:])
            HubImport.objects.filter(pk__in=old).delete()

    def work(self) -> dict[str, Any]:
        from . import client  # the library is heavy

        try:
            found = client.look(self.row.repo, self.row.revision)
        except client.LostError:
            raise Refused("import_unreachable", host=self.row.hub) from None
        files = choosing.chosen(found.files)
        with self._room(found, files) as (place, upload):
            try:
                for index, file in enumerate(files):
                    fetch(client, self.row, place, index, file, self)
                folder = finishing.finish_held(place, arriving.again(place, upload)).folder
            except OSError as error:
                if error.errno not in FULL:
                    raise
                with suppress(OSError):
                    removal.remove(place)
                raise Refused("import_no_space", size=self.row.size_bytes) from None
            except (Refused, jobs.CancelledError) as error:
                if not (isinstance(error, Refused) and error.code in PASSING):
                    with suppress(OSError):
                        removal.remove(place)
                raise
        self.row.folder = folder
        HubImport.objects.filter(pk=self.row.pk).update(folder=folder)
        self._take_in()
        return {"received_bytes": self.received}

    def tell(self, count: int) -> None:
        """Of so many more bytes. Raises CancelledError, BusyError, Refused."""
        self.received += count
        if time.monotonic() > self.until:
            raise Refused("import_too_long")
        self.alive(self.received / max(1, self.row.size_bytes), received_bytes=self.received)

    @property
    def seconds_left(self) -> float:
        return self.until - time.monotonic()

    @contextmanager
    def _room(self, found: Snapshot, files: list[RemoteFile]) -> Iterator[tuple[Place, Upload]]:
        """The folder in which it arrives, locked. Raises Refused, OSError."""
        size = sum(file.size for file in files)
        facts = {"commit": found.commit, "file_count": len(files), "size_bytes": size}
        if size > settings.UPLOAD_MAX_BYTES:
            HubImport.objects.filter(pk=self.row.pk).update(**facts)
            raise Refused("import_too_large", size=size, limit=settings.UPLOAD_MAX_BYTES)
        user = self.row.actor_id
        if user is None:
            raise jobs.CancelledError  # the account is gone
        announced = [(file.path, file.size, int(found.commit[:15], 16)) for file in files]
        try:
            upload, _new = arriving.begin(user, self.row.repo.rpartition("/")[2], announced, fetched=True)
            facts["upload_key"] = upload.id
        except ApiError as error:
            raise _refusal(error, size) from None
        finally:
            HubImport.objects.filter(pk=self.row.pk).update(**facts)
        self.row.refresh_from_db()
        with ExitStack() as held:
            try:
                place, upload = held.enter_context(arriving.held(user, upload.id, fetched=True))
                held.enter_context(alone(place, MANIFEST))
            except ApiError as error:
                raise _refusal(error, size) from None
            yield place, upload

    def _take_in(self) -> None:
        """Have it scanned, and let the adapters' rows say where they are from."""
        settled = time.monotonic() + min(settings.SCAN_SETTLE_SECONDS, 10.0)
        while time.monotonic() < settled:  # a folder that has just changed counts as still being written
            self._pause()
        until = time.monotonic() + SCAN_PATIENCE
        while True:
            try:
                scan(self.row.actor, progress=lambda *_far: self.hold.touch())
                break
            except BusyError:
                if time.monotonic() > until:
                    logger.warning("import of %s: no scan within %s seconds", self.row, SCAN_PATIENCE)
                    return
                self._pause()
        origin = {"hub": self.row.hub, "repo": self.row.repo, "revision": self.row.revision, "commit": self.row.commit}
        for adapter in adapters_of(self.row):
            LoraAdapter.objects.filter(pk=adapter.pk).update(origin=origin, updated_at=timezone.now())
            adapter.record(EventKind.IMPORTED, self.row.actor, details=origin)

    def _pause(self) -> None:
        time.sleep(PAUSE)
        self.hold.touch()


REASONS = {"upload_busy": gettext_noop("another import writes to the same files")}


def _refusal(error: ApiError, size: int) -> Refused:
    """What the uploads' rules say, as a failure of the job."""
    if error.code == "upload_quota":
        return Refused("import_quota", size=size, quota=settings.UPLOAD_QUOTA_BYTES)
    if error.code == "upload_no_space":
        return Refused("import_no_space", size=size)
    return Refused("import_failed", reason=REASONS.get(error.code, error.code))
