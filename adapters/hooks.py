"""What the registry asks of the side that runs models, and of gates. The registry never imports them: they register
themselves here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

DRAIN_TIMEOUT = 10.0  # seconds that a deletion waits altogether


@dataclass(frozen=True)
class BaseSupport:
    """What the running side says about a base model. `refusal`: why it cannot be served; "" where it can, or where
    nothing says that it cannot. `layers`: every linear layer by the name that it has at run time -> (outputs, inputs,
    role), where it is known; roles are "carries" an adapter, "idle" (no text enters it) and "fixed". `earlier_names`:
    what adapters of an earlier release call such a layer -> its name at run time."""

    refusal: str = ""
    layers: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)
    earlier_names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """A stored copy that is about to be served. `base_*`: of its base model's row; `prompting`: sha256 of its
    prompting.json, "" where it has none."""

    digest: str
    path: str
    name: str
    prompting: str
    base_key: str
    base_path: str
    base_name: str
    base_signature: str


@dataclass(frozen=True)
class Promotion:
    """What the running side says to a stored copy before it is served. `code`: why it cannot be, one of `failures.py`
    with its `details`; "" where it can. `lasting`: that lies in the adapter, and not in a machine that is away.
    `report`: for the adapter's page; {} where there is nothing to tell."""

    code: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    lasting: bool = True
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedCopy:
    """A stored copy that active adapters are served from."""

    digest: str
    path: str
    name: str


@dataclass(frozen=True)
class PublishedFault:
    """What is wrong with what the running side has of a copy elsewhere. `reason`: to be translated when it is shown;
    `mended`: it is right again."""

    digest: str
    name: str
    reason: str
    mended: bool


@dataclass(frozen=True)
class Objection:
    """Why a gate holds an adapter back: a code of `failures.py` with its `details`."""

    code: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Gatekeeper(Protocol):
    """Who may object to an activation. Asked by whatever activates, in the thread that does."""

    def objection(self, adapter_id: int, digest: str, base_key: str) -> Objection | None:
        """Against serving this content, on this base, as this adapter; None where nothing speaks against it."""

    def tried(self) -> set[str]:
        """Digests of the copies that are being evaluated before they may be served: the store keeps them."""


Tell = Callable[[int], None]  # hears the bytes of each piece that was read


class RunningSide(Protocol):
    def released(self, digest: str, reason: str) -> None:
        """`digest` is not served any more: "deactivated", "replaced", "failed", "forgotten" or "files_deleted".

        Called after the transaction that took it out of service.
        """

    def drain(self, digest: str, timeout: float) -> bool:
        """Wait up to `timeout` seconds. True once no request uses the stored copy, False where one still does."""

    def promote(self, stored: Stored) -> Promotion:
        """See to it that a copy can be served, before it is: where models run on other machines, they get it and are
        asked once. Takes seconds there. Safe to repeat."""

    def sweep(self, unwanted: Callable[[str], bool], dry_run: bool) -> list[tuple[str, int]]:
        """Where models run on other machines: remove what was put there of stored copies that are `unwanted` and that
        no request uses, and what killed processes left there; (name, bytes) of each.

        Raises OSError where that cannot be looked at.
        """

    def check(self, copies: Sequence[ServedCopy], dry_run: bool, thorough: bool, tell: Tell) -> list[PublishedFault]:
        """Compare what was put there with the stored copies, and put right what is bad, unless `dry_run`.

        `thorough`: read all of it; else what has changed since it was read, and one of those that were not read for
        STORE_HASH_INTERVAL. Raises OSError where this process cannot read files.
        """

    def base_support(self, folder: str) -> BaseSupport:
        """About the base model in `folder`.

        Raises OSError or TimeoutError where there is no answer: the base is then asked about after another scan.
        """

    def template_fault(self, template: str, tokens: Mapping[str, str]) -> str:
        """Why a chat template is of no use, with these special tokens by name; "" where it is. Raises OSError."""


_running_side: RunningSide | None = None


def register(side: RunningSide | None) -> RunningSide | None:
    """Set the one side that is asked (None: nobody); returns the one before."""
    global _running_side
    before, _running_side = _running_side, side
    return before


_gatekeeper: Gatekeeper | None = None


def register_gatekeeper(gatekeeper: Gatekeeper | None) -> Gatekeeper | None:
    """Set the one that is asked before an activation (None: nobody); returns the one before."""
    global _gatekeeper
    before, _gatekeeper = _gatekeeper, gatekeeper
    return before


def objection(adapter_id: int, digest: str, base_key: str) -> Objection | None:
    """Raises what the gatekeeper raises: an adapter that nobody could be asked about does not become active."""
    return _gatekeeper.objection(adapter_id, digest, base_key) if _gatekeeper is not None else None


def tried() -> set[str]:
    return _gatekeeper.tried() if _gatekeeper is not None else set()


def is_registered() -> bool:
    return _running_side is not None


def released(digest: str, reason: str) -> None:
    if _running_side is not None:
        _running_side.released(digest, reason)


def drain(digest: str, timeout: float = DRAIN_TIMEOUT) -> bool:
    """True where nobody uses the stored copy within `timeout` seconds."""
    return _running_side is None or _running_side.drain(digest, timeout)


def promote(stored: Stored) -> Promotion:
    return _running_side.promote(stored) if _running_side is not None else Promotion()


def sweep(unwanted: Callable[[str], bool], dry_run: bool = False) -> list[tuple[str, int]]:
    """Raises what the running side raises."""
    return _running_side.sweep(unwanted, dry_run) if _running_side is not None else []


def check(
    copies: Sequence[ServedCopy], dry_run: bool = False, thorough: bool = False, tell: Tell = lambda count: None
) -> list[PublishedFault]:
    """Raises what the running side raises."""
    return _running_side.check(copies, dry_run, thorough, tell) if _running_side is not None else []


def template_fault(template: str, tokens: Mapping[str, str]) -> str:
    """Raises what the running side raises."""
    return _running_side.template_fault(template, tokens) if _running_side is not None else ""


def base_support(folder: str) -> BaseSupport:
    """Raises what the running side raises."""
    return _running_side.base_support(folder) if _running_side is not None else BaseSupport()
