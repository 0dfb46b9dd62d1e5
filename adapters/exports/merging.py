"""Merging an adapter into its base model, as a job: one at a time, on a thread beside the requests, the work itself in
a child process under limits. What is known of it is in the database, so that any process can tell and cancel it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import sys
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.utils.translation import gettext_noop

import launching
from adapters import hooks, jobs, store
from adapters.bases.identity import base_root, states
from adapters.bases.registry import is_current
from adapters.failures import Refused
from adapters.files import entries, partials, store_folder
from adapters.formats.files import open_below
from adapters.identifiers import text_hash
from adapters.leases import HeldLease
from adapters.models import BaseModel, EventKind, JobState, LoraAdapter, Merge, Status
from adapters.places import Place
from adapters.training.layout import WEIGHTS

from . import beside, shelf, stored
from .planning import ADAPTER, Plan, plan, unsupported

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

logger = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("merge_child.py")
TIMEOUT = 6 * 3600.0  # seconds
RESERVE = 256 * 2**20  # bytes of the disk that merges leave free
HEAD_ROOM = 64 * 2**20  # bytes beside the tensors: headers, tokenizer
MOST_FILES = 512  # of a base, which are open at once
REASONS = {
    "memory": gettext_noop("memory ran out"),
    "time": gettext_noop("it took too long"),
    "killed": gettext_noop("its process was ended"),
}
INTERRUPTED = "merge_interrupted"


class NotActiveError(Exception):
    """Only what is served has a verified copy."""


class QuotaError(Exception):
    """`used`: bytes of the merged models that are kept; `wanted`: of this one."""

    def __init__(self, used: int, wanted: int) -> None:
        super().__init__()
        self.used, self.wanted = used, wanted


class NoSpaceError(Exception):
    """The disk has no room for the result."""


def begin(adapter: LoraAdapter, actor: AbstractBaseUser, dtype: str) -> Merge:
    """Start to merge an active adapter. Raises BusyError while another merge runs, NotActiveError, QuotaError,
    NoSpaceError, Refused, OSError."""
    hold = HeldLease(Merge().lease, "merge_running")
    with ExitStack() as held:
        held.enter_context(hold)
        jobs.fail_others(Merge, hold.name, INTERRUPTED)
        shelf.sweep()
        if adapter.status != Status.ACTIVE or not adapter.digest:
            raise NotActiveError
        base = adapter.base
        if base is None or base.missing:
            raise Refused("base_not_found", base=base.name if base else adapter.base_name_recorded)
        if not is_current(base):  # the next scan knows it again
            raise Refused("changed_meanwhile")
        if adapter.prompting.get("added_tokens"):
            raise unsupported("tokenizer.json", gettext_noop("it adds tokens to the base model's"))
        found = plan(adapter.digest, base, dtype)
        if len(found.sources) > MOST_FILES:
            raise Refused("merge_failed", reason=gettext_noop("the base model has too many files"))
        _check_room(found.size + HEAD_ROOM)
        merge = Merge.objects.create(
            adapter=adapter, adapter_name=adapter.name, slug=adapter.slug, digest=adapter.digest, base_name=base.name,
            base_key=base.key, dtype=dtype, folder=secrets.token_hex(16), actor_id=actor.pk,
            actor_name=actor.get_username(),
        )  # fmt: skip
        _Merging(merge, hold, adapter, base, found).start()
        held.pop_all()  # it frees the lock
    return merge


def _check_room(wanted: int) -> None:
    used = shelf.used()
    if used + wanted > settings.EXPORT_QUOTA_BYTES:
        raise QuotaError(used, wanted)
    shelf.made().close()
    if wanted + RESERVE > shutil.disk_usage(settings.EXPORTS_DIR).free:
        raise NoSpaceError


class _Merging(jobs.Job):
    """From the plan to the folder."""

    failed = "merge_failed"
    row: Merge

    def __init__(self, row: Merge, hold: HeldLease, adapter: LoraAdapter, base: BaseModel, found: Plan) -> None:
        super().__init__(row, hold)
        self.adapter, self.base, self.plan, self.digest = adapter, base, found, row.digest

    def ended(self, state: JobState) -> None:
        if state == JobState.DONE:
            details = {"digest": self.digest, "base": self.base.name, "dtype": self.row.dtype}
            self.adapter.record(EventKind.MERGED, self.row.actor, details=details)

    def work(self) -> dict[str, Any]:
        before = store.state(self.digest)
        fault = store.fault(self.digest)
        if fault is not None:
            raise Refused(fault.code, reason=fault.reason)
        with shelf.made() as root, partials.partial(root, "owner") as (place, _lock):
            written = self._child(place)
            origin = self._origin(written)
            small = beside.files_of(self.base, self.plan, stored.prompting_of(self.digest), origin)
            written += [_put(place, name, data) for name, data in small.items()]
            if store.state(self.digest) != before or text_hash(*states(self.base.path)) != self.base.signature:
                raise Refused("changed_meanwhile")
            self._check_loads(os.path.join(os.path.realpath(settings.EXPORTS_DIR), place.name))
            place.unlink("owner")
            os.fchmod(place.descriptor, 0o755)
            os.fsync(place.descriptor)
            if not entries.publish(place, self.row.folder):
                raise FileExistsError
            os.fsync(root.descriptor)
        size = sum(file["size"] for file in written)
        files = sorted(written, key=lambda file: str(file["name"]))
        return {"files": files, "size_bytes": size}

    def _child(self, place: Place) -> list[dict[str, Any]]:
        """Have the weights written; their names, sizes and sums. Raises Refused, CancelledError, OSError."""
        with ExitStack() as held:
            descriptors = {
                name: held.enter_context(open_below(base_root(), self.base.path, name)).fileno()
                for name in self.plan.sources
            }
            with store_folder.opened() as stores, stores.below(self.digest) as copy:
                descriptors[ADAPTER] = copy.open(WEIGHTS)
            held.callback(os.close, descriptors[ADAPTER])
            said = {
                "largest": max(map(_bytes_of, self.plan.files.values())) + HEAD_ROOM, "parts": 3 * self.plan.parts,
                "seconds": int(TIMEOUT), "files": [
                    {"name": name, "tensors": [made.told(descriptors, self.plan.adapter_start) for made in tensors]}
                    for name, tensors in self.plan.files.items()
                ],
            }  # fmt: skip
            words = [sys.executable, "-I", str(CHILD), str(place.descriptor), str(os.getpid())]
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            environment = launching.of_these(PATH="/usr/bin:/bin", LANG="C.UTF-8", HOME="/", **threads)
            try:
                done = launching.run(
                    words, environment, stdin=json.dumps(said).encode(), timeout=TIMEOUT,
                    descriptors=(place.descriptor, *descriptors.values()), heard=self._heard,
                )  # fmt: skip
            except launching.TookTooLongError:
                raise Refused("merge_failed", reason=REASONS["time"]) from None
        last = _lines(done.output)[-1:]
        if done.status != 0 or not last or "done" in last[0]:
            logger.error("the merging process ended with status %s: %s", done.status, done.errors[-2000:])
            raise Refused("merge_failed", reason=REASONS["killed"])
        if "refused" in last[0]:
            code = str(last[0].pop("refused"))
            details = {**last[0], "reason": REASONS.get(str(last[0].get("reason")), last[0].get("reason", ""))}
            raise Refused(code, **details)
        found: list[dict[str, Any]] = last[0]["files"]
        return found

    def _heard(self, output: bytes) -> None:
        lines = [line for line in _lines(output) if "done" in line]
        self.alive(lines[-1]["done"] / max(1, 2 * self.plan.size) if lines else 0.0)  # written, and read again

    def _origin(self, written: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "base": self.base.name, "base_key": self.base.key, "adapter": self.adapter.name,
            "adapter_digest": self.digest, "dtype": self.row.dtype,
            "sha256": {file["name"]: file["sha256"] for file in written},
        }  # fmt: skip

    def _check_loads(self, folder: str) -> None:
        """Have the running side look at the result as it looks at any base model: every tensor in its place. Raises
        Refused."""
        if not settings.CHECK_BASES:
            return
        self.hold.touch()
        try:
            support = hooks.base_support(folder)
        except (OSError, TimeoutError) as error:
            logger.warning("the merged model of %s could not be looked at: %s", self.adapter.name, error)
            return
        self.hold.touch()
        if support.refusal:
            raise Refused("merge_unverified", file=support.refusal)


def _bytes_of(tensors: Any) -> int:
    return sum(made.size for made in tensors)


def _lines(output: bytes) -> list[dict[str, Any]]:
    """The whole lines of what the child has said so far."""
    found = []
    for line in output.splitlines(keepends=True):
        if line.endswith(b"\n"):
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict):
                found.append(said)
    return found


def _put(place: Place, name: str, data: bytes) -> dict[str, Any]:
    with place.create(name, 0o644) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())
    sums = {"sha256": hashlib.sha256(data).hexdigest(), "crc32": zlib.crc32(data)}
    return {"name": name, "size": len(data), **sums}
