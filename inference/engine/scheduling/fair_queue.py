"""The waiting line: bounded, fair by user and then by adapter, first come first served within both."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from inference.engine.errors import EngineError

from .sequence import Sequence

Account = tuple[str, str | None]  # (user, adapter)


class FairQueue:
    """Start-time fair queuing on tokens of service.

    Each user has a count of tokens that the engine computed for them, each (user, adapter) likewise. The next request
    is of the user with the least, and among that user's of the adapter with the least. Who was away starts level with
    the least of those present, so absence saves up nothing.
    """

    def __init__(self, limit: int, user_limit: int) -> None:
        self.limit = limit
        self.user_limit = user_limit
        self.lines: OrderedDict[str, OrderedDict[str | None, deque[Sequence]]] = OrderedDict()
        self.user_service: dict[str, float] = {}
        self.account_service: dict[Account, float] = {}
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Sequence]:
        for lines in self.lines.values():
            for line in lines.values():
                yield from line

    def push(self, sequence: Sequence, running: dict[str, int]) -> None:
        """Join the line. `running` counts each user's running sequences.

        Raises EngineError `queue_full` or `user_limit`.
        """
        user = sequence.user
        waiting = sum(len(line) for line in self.lines.get(user, {}).values())
        if waiting + running.get(user, 0) >= self.user_limit:
            raise EngineError("user_limit", "Too many requests of this user at once.", limit=self.user_limit)
        if self.size >= self.limit:
            raise EngineError("queue_full", "The queue is full.", limit=self.limit)
        self._enter(user, sequence.adapter, set(running))
        self.lines[user].setdefault(sequence.adapter, deque()).append(sequence)
        self.size += 1

    def push_front(self, sequence: Sequence) -> None:
        """Back to the head of its line (a sequence that had to leave its slot); never refused."""
        self._enter(sequence.user, sequence.adapter, set())
        self.lines[sequence.user].setdefault(sequence.adapter, deque()).appendleft(sequence)
        self.size += 1

    def _enter(self, user: str, adapter: str | None, present: set[str]) -> None:
        if user not in self.lines:
            others = [self.user_service.get(name, 0.0) for name in {*self.lines, *present} - {user}]
            floor = min(others, default=0.0)
            if user not in present:
                self.user_service[user] = max(self.user_service.get(user, 0.0), floor)
            self.lines[user] = OrderedDict()
        lines = self.lines[user]
        if adapter not in lines:
            floor = min((self.account_service.get((user, name), 0.0) for name in lines), default=0.0)
            account = (user, adapter)
            self.account_service[account] = max(self.account_service.get(account, 0.0), floor)

    def charge(self, sequence: Sequence, tokens: int) -> None:
        """Count tokens that the engine computed for a sequence."""
        account = (sequence.user, sequence.adapter)
        self.user_service[sequence.user] = self.user_service.get(sequence.user, 0.0) + tokens
        self.account_service[account] = self.account_service.get(account, 0.0) + tokens

    def next(self, admissible: Callable[[Sequence], bool]) -> Sequence | None:
        """The request whose turn it is among those that can start now; it stays in line until `remove`.

        One that nobody waits for has its turn where no other can start.
        """
        spare: Sequence | None = None
        for user in sorted(self.lines, key=lambda name: self.user_service.get(name, 0.0)):
            lines = self.lines[user]
            for adapter in sorted(lines, key=lambda name: self.account_service.get((user, name), 0.0)):
                for sequence in lines[adapter]:
                    if sequence.background and spare is not None:
                        continue
                    if admissible(sequence):
                        if not sequence.background:
                            return sequence
                        spare = sequence
        return spare

    def remove(self, sequence: Sequence) -> None:
        lines = self.lines[sequence.user]
        lines[sequence.adapter].remove(sequence)
        if not lines[sequence.adapter]:
            del lines[sequence.adapter]
        if not lines:
            del self.lines[sequence.user]
        self.size -= 1
        if not self.size and len(self.user_service) > 10_000:
            self.user_service.clear()  # everybody is level again; bounds memory over years
            self.account_service.clear()

    def order(self) -> list[Sequence]:
        """Everybody waiting, in the order of their turns were all requests alike: rounds over users, then adapters."""
        ranked: list[tuple[bool, int, float, Sequence]] = []
        for user, lines in self.lines.items():
            service = self.user_service.get(user, 0.0)
            own: list[tuple[int, float, Sequence]] = []
            for adapter, line in lines.items():
                account = self.account_service.get((user, adapter), 0.0)
                own.extend((turn, account, sequence) for turn, sequence in enumerate(line))
            own.sort(key=lambda item: (item[0], item[1]))
            ranked.extend((item[2].background, turn, service, item[2]) for turn, item in enumerate(own))
        ranked.sort(key=lambda item: item[:3])
        return [item[3] for item in ranked]
