"""What can be found wrong in milliseconds is said before the long steps begin."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from pathlib import Path

from .console import SetupError
from .environment import Environment

NEEDED_FOR_PACKAGES = 3 * 2**30


def check_port(host: str, port: int) -> None:
    """Raise SetupError where nothing can listen there."""
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise SetupError(f"HOST={host} is no address of this machine: use 127.0.0.1, or 0.0.0.0 for all.") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                other = port + 1 if port < 65535 else 8000
                raise SetupError(
                    f"Port {port} is taken by another program: stop it, or start with PORT={other} make run."
                ) from None
            if error.errno == errno.EACCES:
                raise SetupError(f"Port {port} is reserved for root: choose one from 1024, as in PORT=8000.") from None
            raise SetupError(f"HOST={host} is no address of this machine ({error.strerror}).") from None


def check_folder(folder: Path, what: str) -> None:
    """Make the folder, and raise SetupError where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"{what} {folder} cannot be made ({error.strerror}): set {what} to a folder that you may write."
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SetupError(f"{what} {folder} cannot be written: set {what} to a folder that you may write.")


def check_space(folder: Path, needed: int) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise SetupError(
            f"{existing} has {free / 2**30:.1f} GiB free and {needed / 2**30:.0f} GiB are needed: free some space."
        )


def preflight(environment: Environment) -> None:
    check_port(environment.host, environment.port)
    check_folder(environment.var_dir, "VAR_DIR")
