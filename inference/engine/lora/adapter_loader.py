"""Adapters on their way into the bank: read beside the steps, made room for, proven, then served.

Reading runs on a thread of its own; everything else happens on the engine's thread between two steps, so running
sequences never wait for an adapter that another request asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from inference.engine.errors import EngineError, UnforeseenError
from inference.engine.faults import Faults
from inference.engine.protocol import AdapterSpec
from inference.engine.recipes import members_of
from inference.engine.runner_interface import BaseRunner, Loaded, ProofResult

from .residency import Residency, Resident


@dataclass
class LoadFailure:
    digest: str
    error: EngineError


class AdapterLoader:
    """One adapter is read at a time, in the order of asking; the same digest is read once."""

    def __init__(
        self, runner: BaseRunner, residency: Residency, clock: Callable[[], float] = time.monotonic,
        faults: Faults | None = None, moved: Callable[[str, str, float | None], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        """`moved(digest, name, seconds)` hears what was loaded and, with None, what left for want of room."""
        self.runner = runner
        self.residency = residency
        self.clock = clock
        self.faults = faults or Faults()
        self.moved = moved
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="adapter-reader")
        self.futures: dict[str, tuple[AdapterSpec, Future[Loaded], float]] = {}
        self.landed: list[tuple[AdapterSpec, Loaded, float]] = []  # read, waiting for room or for their proof
        self.proving: tuple[AdapterSpec, float] | None = None

    def busy(self) -> bool:
        return bool(self.futures or self.landed or self.proving)

    def underway(self, digest: str) -> bool:
        return (
            digest in self.futures
            or any(spec["digest"] == digest for spec, _, _ in self.landed)
            or (self.proving is not None and self.proving[0]["digest"] == digest)
        )

    def blends_of(self, digest: str) -> list[str]:
        """Blends that the adapter is a member of, resident or on their way."""
        specs = [spec for spec, *_ in (*self.futures.values(), *self.landed)]
        found = [one.digest for one in self.residency.adapters.values() if digest in one.members]
        return found + [spec["digest"] for spec in specs if digest in members_of(spec)]

    def ready(self, digest: str) -> bool:
        adapter = self.residency.adapters.get(digest)
        return adapter is not None and adapter.proven

    def want(self, spec: AdapterSpec) -> bool:
        """Ask for an adapter; True where that began a load."""
        digest = spec["digest"]
        if digest in self.residency or self.underway(digest):
            return False
        self.futures[digest] = (spec, self.pool.submit(self.runner.read_adapter, spec), self.clock())
        return True

    def advance(self) -> list[LoadFailure]:
        """Move on what has been read; called between steps. Returns what failed."""
        failures = []
        for digest, (spec, future, since) in list(self.futures.items()):
            if not future.done():
                continue
            del self.futures[digest]
            error = future.exception()
            if error is None:
                self.landed.append((spec, future.result(), since))
            else:
                failures.append(self._failed(spec, error))
        while self.landed and self.proving is None:
            spec, loaded, since = self.landed[0]
            victims = self.residency.victims(loaded.bytes)
            if victims is None:
                if loaded.bytes <= self.residency.budget:
                    break  # room comes when a running sequence ends
                self.landed.pop(0)
                failures.append(LoadFailure(loaded.digest, too_large(loaded, self.residency.budget)))
                continue
            self.landed.pop(0)
            try:
                for victim in victims:
                    name = self.residency.adapters[victim].name
                    self.remove(victim)
                    self.moved(victim, name, None)
                self._install(spec, loaded, since)
            except BaseException as error:  # noqa: BLE001  (sorted out by `caught`)
                failures.append(self._failed(spec, error))
                self._forget(loaded.digest)
        return failures

    def _failed(self, spec: AdapterSpec, error: BaseException) -> LoadFailure:
        failure = self.faults.caught(error, f"loading adapter {spec['name']}", "adapter_load_failed")
        if isinstance(failure, UnforeseenError):  # whatever it is, it is this adapter's load
            failure = EngineError("adapter_load_failed", failure.message, **failure.detail)
        return LoadFailure(spec["digest"], failure)

    def _forget(self, digest: str) -> None:
        """Take out what an interrupted installation left."""
        if self.proving is not None and self.proving[0]["digest"] == digest:
            self.proving = None
        self.residency.adapters.pop(digest, None)
        self.residency.pins.pop(digest, None)
        self.runner.remove_adapter(digest)

    def _install(self, spec: AdapterSpec, loaded: Loaded, since: float) -> None:
        proven = bool(spec.get("proven"))
        self.runner.add_adapter(loaded)
        self.residency.add(
            Resident(
                loaded.digest, loaded.name, loaded.rank, loaded.bytes, proven=proven, members=tuple(members_of(spec)),
                vocabulary=loaded.vocabulary,
            )
        )  # fmt: skip
        if proven:
            self.moved(loaded.digest, loaded.name, self.clock() - since)
        else:
            # Pinned until the proof ends, so that nobody takes its place meanwhile.
            self.residency.pin(loaded.digest)
            self.runner.begin_proof(loaded.digest)
            self.proving = (spec, since)

    def proved(self, result: ProofResult) -> tuple[float, LoadFailure | None]:
        """The proof's end: (seconds since the adapter was asked for, failure). A failed adapter leaves at once."""
        since = self.proving[1] if self.proving else self.clock()
        seconds = self.clock() - since
        self.proving = None
        self.residency.unpin(result.digest)
        if result.ok:
            adapter = self.residency.adapters[result.digest]
            adapter.proven = True
            self.moved(adapter.digest, adapter.name, seconds)
            return seconds, None
        self.remove(result.digest)
        return seconds, LoadFailure(result.digest, EngineError(result.code, result.message))

    def abandon(self) -> str:
        """Give the proof under way up; its adapter leaves. Returns the digest. Raises RuntimeError without one."""
        if self.proving is None:
            raise RuntimeError("no proof is under way")
        digest = self.proving[0]["digest"]
        self._forget(digest)
        return digest

    def remove(self, digest: str) -> int:
        freed = self.residency.remove(digest)
        self.runner.remove_adapter(digest)
        return freed

    def waits_for_room(self, digest: str) -> bool:
        """Whether a read adapter stands outside because those inside are all in use."""
        return any(
            spec["digest"] == digest and self.residency.victims(loaded.bytes) is None for spec, loaded, _ in self.landed
        )

    def reset(self) -> None:
        """The base is gone, and with it every adapter."""
        for _, future, _ in self.futures.values():
            future.cancel()
        self.futures.clear()
        self.landed.clear()
        self.proving = None
        self.residency.adapters.clear()
        self.residency.pins.clear()


def too_large(loaded: Loaded, budget: int) -> EngineError:
    return EngineError(
        "out_of_memory",
        f"{loaded.name} takes {loaded.bytes // 2**20} MiB, the bank has {budget // 2**20} MiB; "
        "raise ENGINE_ADAPTER_BYTES.",
        name=loaded.name, needed=loaded.bytes, budget=budget,
    )  # fmt: skip
