"""Child processes: the one place that starts them for registry, patterns and engine.

Each is a fixed command without a shell, gets the environment that its caller names (never ours as it is), and only
the files that are passed to it. What it says is read up to a bound, and one that takes too long is killed. Programs
that import for seconds can be forked from a process that has done so (`Forks`).
(`loraportal/setup` has its own: it runs before anything is installed.)
"""

from .environment import appear_as, of_these, without_secrets
from .forks import Forks
from .programs import Child, Ended, Starter, TookTooLongError, run, start

__all__ = [
    "Child", "Ended", "Forks", "Starter", "TookTooLongError",
    "appear_as", "of_these", "run", "start", "without_secrets",
]  # fmt: skip
