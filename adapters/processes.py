"""Names of processes that outlive them: whoever reads one in the database can see whether that process still runs.

A name is "host boot namespace pid start-time". Of a process of this very place (host, boot and process namespace) it
says at once whether it runs. Of another place, or where there is no /proc, nothing can be seen: whoever keeps something
under such a name renews an expiry besides.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

ENDED = frozenset("ZXx")  # states in /proc/PID/stat: one that nobody has waited for yet runs no more


class Processes:
    """The processes that can be seen from here. `proc` is where the kernel tells of them."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self.proc = proc
        self._own: tuple[int, str] | None = None

    def boot(self) -> str:
        """This boot of this machine, the same in all of its containers; "" where it has no such name."""
        try:
            return (self.proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def place(self) -> str:
        """Where process numbers mean the same; ends with "- -" where that cannot be said."""
        host, boot = socket.gethostname()[:80], self.boot()
        try:
            namespace = os.readlink(self.proc / "self/ns/pid")
        except OSError:
            namespace = ""
        return f"{host} {boot} {namespace}" if boot and namespace else f"{host} - -"

    def start_time(self, pid: int) -> str | None:
        """The kernel's start time of a running process; "" where none runs, None where it cannot be read.

        It tells a process from a later one that was given the same number.
        """
        try:
            text = (self.proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
            fields = text.rpartition(")")[2].split()
            return "" if fields[0] in ENDED else fields[19]
        except (OSError, IndexError):
            return None if self.exists(pid) else ""

    def exists(self, pid: int) -> bool:
        """Whether the number is taken; others' processes may be hidden from /proc."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True

    def own(self) -> str:
        """The name of this process, at most 255 characters."""
        pid = os.getpid()
        if self._own is None or self._own[0] != pid:  # (a forked child is another process)
            self._own = pid, f"{self.place()} {pid} {self.start_time(pid) or '-'}"
        return self._own[1]

    def is_dead(self, name: str) -> bool:
        """True where `name` was a process of this very place that does not run any more."""
        place, _, started = name.rpartition(" ")
        place, _, pid = place.rpartition(" ")
        if place != self.own().rsplit(" ", 2)[0] or place.endswith(" - -") or not pid.isdigit() or started == "-":
            return False
        now = self.start_time(int(pid))
        return now is not None and now != started


_here = Processes()


def own_name() -> str:
    """The name of this process, at most 255 characters."""
    return _here.own()


def is_dead(name: str) -> bool:
    """True where `name` was a process of this very place that does not run any more."""
    return _here.is_dead(name)


def boot() -> str:
    """This boot of this machine, the same in all of its containers; "" where it has no such name."""
    return _here.boot()
