"""The portal as it is served, over the fake worker: `python -m inference.tests.site`, for tests that need a server."""

# ruff: noqa: E402  (libraries are imported without collections of garbage)
from __future__ import annotations

import atexit
import gc
import os
import sys
from functools import partial
from pathlib import Path

gc.disable()  # as the portal itself starts
from loraportal.asgi import application  # isort: skip  (sets Django up, before the imports below)

from django.conf import settings

from inference.backends.local import LocalBackend
from inference.backends.process import WorkerOptions
from inference.manager import ModelManager, close_manager, set_manager
from loraportal.server.daphne_server import PortalServer

if "ENGINE_RUNNER" not in os.environ:  # else the engine's own worker, with the runner named there
    options = WorkerOptions(
        config={"beat": 0.2},
        log_path=settings.LOG_DIR / "engine.log",
        folder=settings.BASE_DIR,
        command=(sys.executable, str(Path(__file__).with_name("fake_worker.py"))),
    )
    set_manager(ModelManager(partial(LocalBackend, options)))
atexit.register(close_manager)
gc.freeze()
gc.enable()
PortalServer(application, settings.HOST, settings.PORT, lambda: None).run()
