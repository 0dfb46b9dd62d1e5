"""The weights of a blend are written by a child process under limits of memory, time and size: no tensor, and no
library for them, comes into the web process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

import launching
from adapters.places import Place
from adapters.training.layout import WEIGHTS
from adapters.uploads import refusals as upload_refusals

from . import refusals
from .planning import Member, Plan

CHILD = Path(__file__).with_name("write_child.py")
TIMEOUT = 900.0  # seconds


@dataclass(frozen=True)
class Error:
    """What a reduction leaves out, as relative Frobenius norms: over all layers, and of the worst one."""

    overall: float
    worst: float
    layer: str


def write(folder: Place, plan: Plan, members: Sequence[Member], reduce: bool) -> Error:
    """Write `plan` as safetensors into an empty folder. Raises ApiError, OSError."""
    files = [member.file.fileno() for member in members]
    modules = [asdict(module) for module in plan.modules]
    told = json.dumps({"files": files, "modules": modules, "head": plan.head.hex(), "reduce": reduce})
    words = [
        sys.executable, "-I", str(CHILD), str(folder.descriptor), WEIGHTS, str(plan.size), str(os.getpid())
    ]  # fmt: skip
    environment = launching.of_these(
        PATH="/usr/bin:/bin", LANG="C.UTF-8", HOME="/", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"
    )
    try:
        done = launching.run(
            words, environment, stdin=told.encode(), timeout=TIMEOUT, descriptors=(folder.descriptor, *files)
        )
    except launching.TookTooLongError:
        raise refusals.failed(_("it took too long")) from None
    said = _said(done.output) if done.status == 0 else None
    if said is None:
        raise refusals.failed(_("the process that writes it stopped"))
    if "refused" not in said:
        return Error(float(said["overall"]), float(said["worst"]), str(said["layer"]))
    reason = said["refused"]
    if reason == "weights_nonfinite":
        raise refusals.not_finite()
    if reason == "space":
        raise upload_refusals.no_space()
    raise refusals.failed(_("there is not enough memory") if reason == "memory" else _("a stored copy is damaged"))


def _said(output: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(output)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
