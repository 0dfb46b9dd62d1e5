"""Whether somebody may still listen: access that is withdrawn ends what runs within two seconds.

One task per event loop asks the database once a second about everybody who has an answer running; nothing is asked
while nothing runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.db import DatabaseError
from django.utils import timezone

from accounts.grants import Grant
from accounts.models import ApiToken

logger = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between looks


def withdrawn(grants: Collection[Grant]) -> set[Grant]:
    """Those of `grants` that no longer hold: three short queries whatever their number."""
    users = {grant.user_id for grant in grants}
    tokens = {grant.token_id for grant in grants if grant.token_id is not None}
    sessions = {grant.session_key for grant in grants if grant.session_key is not None}
    good_users = set(get_user_model().objects.filter(pk__in=users, is_active=True).values_list("pk", flat=True))
    good_tokens: set[int] = set()
    if tokens:
        good_tokens = set(ApiToken.objects.usable().filter(pk__in=tokens).values_list("pk", flat=True))
    good_sessions: set[str] = set()
    if sessions:
        alive = Session.objects.filter(session_key__in=sessions, expire_date__gt=timezone.now())
        good_sessions = set(alive.values_list("session_key", flat=True))
    return {
        grant
        for grant in grants
        if grant.user_id not in good_users
        or (grant.token_id is not None and grant.token_id not in good_tokens)
        or (grant.session_key is not None and grant.session_key not in good_sessions)
    }


class GrantWatcher:
    """The grants of one event loop that have something running."""

    def __init__(self) -> None:
        self._watched: dict[object, tuple[Grant, Callable[[], None]]] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, grant: Grant, on_withdrawn: Callable[[], None]) -> object:
        key = object()
        self._watched[key] = (grant, on_withdrawn)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return key

    def remove(self, key: object) -> None:
        self._watched.pop(key, None)
        if not self._watched and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                gone = await database_sync_to_async(withdrawn)({grant for grant, _call in self._watched.values()})
            except DatabaseError as error:  # tokens keep flowing while the database is away
                logger.warning("cannot check who may still listen: %s", error.__class__.__name__)
                continue
            for key, (grant, call) in list(self._watched.items()):
                if grant in gone:
                    self._watched.pop(key, None)
                    call()


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, GrantWatcher] = WeakKeyDictionary()


def watcher() -> GrantWatcher:
    """Of the running event loop."""
    return _watchers.setdefault(asyncio.get_running_loop(), GrantWatcher())


@contextlib.asynccontextmanager
async def watched(grant: Grant, on_withdrawn: Callable[[], None]) -> AsyncIterator[None]:
    """Within the context, `on_withdrawn` is called once on this event loop when the grant no longer holds."""
    here = watcher()
    key = here.add(grant, on_withdrawn)
    try:
        yield
    finally:
        here.remove(key)
