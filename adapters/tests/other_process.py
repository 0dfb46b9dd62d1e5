"""What `test_processes.py` runs in processes of their own, forked from one that has imported this module.

`FOLDER SETUP ACTION`: the test's folder, statements that prepare, and an expression. It says "ready", waits for a line,
does it, and tells the outcome.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import django

django.setup()
from django.conf import settings  # noqa: E402

from adapters import services, store  # noqa: E402
from adapters.discovery import intake, scanning  # noqa: E402


def die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop(*args: Any, **kwargs: Any) -> None:
    print("stopped", flush=True)  # noqa: T201
    sys.stdin.readline()


def main() -> None:
    folder, setup, action = Path(sys.argv[1]), *sys.argv[2:]
    settings.LORA_ROOTS, settings.STORE_DIR = [folder / "adapters"], folder / "store"
    settings.BASE_MODELS_DIR, settings.SCAN_SETTLE_SECONDS = folder / "models", 0.0
    names = {"services": services, "store": store, "intake": intake, "scanning": scanning, "die": die, "stop": stop}
    exec(setup, names)  # noqa: S102  (the test's own words)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    try:
        said = eval(action, names)  # noqa: S307
    except services.BusyError as busy:
        said = f"busy {busy.code}"
    except services.ActivationFailed as failed:
        said = f"failed {failed.code}"
    print(said, flush=True)  # noqa: T201


if __name__ == "__main__":  # where nothing can be forked
    main()
