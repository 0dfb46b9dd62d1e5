"""With which of several Pythons of one version the environment is made.

Builds of one version differ by a third and more in speed: those that a version manager compiles are often made without
the profile that the builds of distributions have.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARGIN = 1.15  # less does not outweigh the order of PATH, nor what a busy machine makes of a measurement
PATIENCE = 20.0  # seconds
ROUNDS = 5  # of measurements in turn; a machine that is slower for a moment spoils one of them
# What an environment of ours needs is imported; then calls, attributes, strings and dictionaries are timed, best of 5.
PROBE = """
import ctypes, ensurepip, json, os, platform, sqlite3, ssl, sys, sysconfig, time, venv, zlib
class Point:
    def __init__(self, place):
        self.place = place
    def twice(self):
        return 2 * self.place
def work():
    found, total = {}, 0
    for number in range(10000):
        total += Point(number).twice()
        found[f"{number % 100}"] = total
def seconds():
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
print(json.dumps({
    "home": sys.base_prefix, "seconds": min(seconds() for _ in range(5)), "version": list(sys.version_info[:3]),
    "machine": platform.machine(), "implementation": sys.implementation.name,
    "headers": os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    path: str
    home: str  # of its libraries: two paths may lead to one Python
    version: tuple[int, ...]
    seconds: float  # of a small program
    headers: bool  # packages without a wheel can be compiled


def fastest() -> tuple[Interpreter, float] | None:
    """Another Python of this version on PATH that computes at least MARGIN times as fast, and how many times; the
    fastest, where there are several. None where PYTHON names the one to take, or this one is as good."""
    if os.environ.get("PYTHON"):
        return None
    own = looked_at(sys.executable)
    if own is None:
        return None
    found = {own.home: own}
    for path in on_path():
        other = looked_at(path)
        if other is not None and (other.headers or not own.headers):
            found.setdefault(other.home, other)
    if len(found) == 1:
        return None
    rounds = [{home: looked_at(one.path) for home, one in found.items()} for _round in range(ROUNDS)]
    times = {home: statistics.median(times_as_fast(one[home], one[own.home]) for one in rounds) for home in found}
    best = max(times, key=lambda home: times[home])
    return (found[best], times[best]) if times[best] >= MARGIN else None


def times_as_fast(one: Interpreter | None, other: Interpreter | None) -> float:
    return other.seconds / one.seconds if one and other else 0.0


def on_path() -> Iterator[str]:
    """Programs named as this version."""
    for folder in os.get_exec_path():
        path = Path(folder) / "python{}.{}".format(*sys.version_info[:2])
        if path.is_absolute() and os.access(path, os.X_OK):
            yield str(path)


def looked_at(path: str) -> Interpreter | None:
    """None for what is no Python like this one, or cannot make an environment."""
    try:
        done = subprocess.run(  # noqa: S603  (it is on PATH, and would be called by its name)
            [path, "-I", "-c", PROBE], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=True
        )
        said = json.loads(done.stdout)
        kind = said["implementation"], said["machine"], tuple(said["version"][:2])
        if kind != (sys.implementation.name, platform.machine(), sys.version_info[:2]):
            return None
        home, version = os.path.realpath(said["home"]), tuple(said["version"])
        return Interpreter(path, home, version, max(said["seconds"], 1e-9), said["headers"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
