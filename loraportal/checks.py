"""System checks: what an operator may have set wrong, each with an id and a hint.

A value that cannot even be read (PORT=abc) is refused in `settings.py`; here is what only this machine can tell.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, register

LITTLE_SPACE = 2**30
MEMORY = re.compile(r"\d+(\.\d+)?\s*([KMGT]i?B)", re.IGNORECASE)


def inside(inner: Path, outer: Path) -> bool:
    return inner == outer or outer in inner.parents


def nearest_existing(path: Path) -> Path:
    return next((parent for parent in (path, *path.parents) if parent.exists()), path)


@register("loraportal")
def check_var_dir(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    existing = nearest_existing(settings.VAR_DIR)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield checks.Error(
            f"VAR_DIR {settings.VAR_DIR} cannot be written.",
            hint="Set VAR_DIR to a folder that this user may write.",
            id="loraportal.E001",
        )
        return
    free = shutil.disk_usage(existing).free
    if free < LITTLE_SPACE:
        yield checks.Warning(
            f"The disk of VAR_DIR has {free // 2**20} MiB left.",
            hint="Free some space or move VAR_DIR: activation copies adapters there.",
            id="loraportal.W002",
        )


@register("loraportal")
def check_adapter_roots(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    own = settings.VAR_DIR / "adapters"
    for root in settings.LORA_ROOTS:
        if not root.exists():
            if root != own:
                yield checks.Warning(
                    f"LORA_ROOTS: {root} is not there.",
                    hint="Mount it or correct LORA_ROOTS; until then its adapters are shown as missing.",
                    id="loraportal.W003",
                )
        elif not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
            yield checks.Error(
                f"LORA_ROOTS: {root} cannot be read.",
                hint="Name a folder that this user may read, or take it out of LORA_ROOTS.",
                id="loraportal.E002",
            )
        if inside(root, settings.STORE_DIR) or inside(settings.STORE_DIR, root):
            yield checks.Error(
                f"LORA_ROOTS: {root} and the adapter store {settings.STORE_DIR} lie inside one another.",
                hint="Training output and the store must be separate folders.",
                id="loraportal.E003",
            )


@register("loraportal")
def check_store_intervals(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if settings.STORE_HASH_INTERVAL and not settings.STORE_CHECK_INTERVAL:
        yield checks.Warning(
            "STORE_CHECK_INTERVAL is 0, so no stored copy is read again after STORE_HASH_INTERVAL either.",
            hint="Set STORE_CHECK_INTERVAL to 60, or STORE_HASH_INTERVAL to 0 as well.",
            id="loraportal.W008",
        )
    elif 0 < settings.STORE_HASH_INTERVAL < settings.STORE_CHECK_INTERVAL:
        yield checks.Warning(
            "STORE_HASH_INTERVAL is shorter than STORE_CHECK_INTERVAL, at whose looks the copies are read.",
            hint="Raise the one or lower the other.",
            id="loraportal.W009",
        )


@register("loraportal")
def check_models_dir(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    folder = settings.BASE_MODELS_DIR
    if folder.exists() and (not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK)):
        yield checks.Error(
            f"BASE_MODELS_DIR {folder} cannot be read.",
            hint="Name a folder of model folders that this user may read.",
            id="loraportal.E005",
        )


@register("loraportal")
def check_database(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    engine = settings.DATABASES["default"].get("ENGINE", "")
    if engine.endswith("mysql") and find_spec("MySQLdb") is None:
        yield checks.Error(
            "DATABASE_URL names MySQL but mysqlclient is not installed.",
            hint="Run: pip install -r requirements-mysql.txt",
            id="loraportal.E004",
        )


@register("loraportal")
def check_redis(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if settings.REDIS_URL and urlsplit(settings.REDIS_URL).scheme not in {"redis", "rediss", "unix"}:
        yield checks.Error(
            "REDIS_URL is no Redis address.",
            hint="Write redis://host:6379/0, or leave it empty to do without Redis.",
            id="loraportal.E006",
        )


@register("loraportal")
def check_engine(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    module, separator, name = settings.ENGINE_RUNNER.partition(":")
    if not (separator and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        yield checks.Error(
            f"ENGINE_RUNNER is no package.module:Class ({settings.ENGINE_RUNNER}).",
            hint="Leave it out to use the engine's own runner.",
            id="loraportal.E007",
        )
    if settings.ENGINE_MAX_GPU_MEMORY and not MEMORY.fullmatch(settings.ENGINE_MAX_GPU_MEMORY):
        yield checks.Error(
            f"ENGINE_MAX_GPU_MEMORY is no amount of memory ({settings.ENGINE_MAX_GPU_MEMORY}).",
            hint="Write a number and a unit, for example 5.5GiB.",
            id="loraportal.E008",
        )
    if settings.ENGINE_DEVICE == "cuda" and not has_cuda_driver():
        yield checks.Error(
            "ENGINE_DEVICE is cuda, but this machine shows no NVIDIA driver.",
            hint="Install the driver, or set ENGINE_DEVICE=auto to use the processor.",
            id="loraportal.E009",
        )
    if settings.ENGINE_PREFILL_CHUNK > settings.ENGINE_MAX_CONTEXT:
        yield checks.Warning(
            "ENGINE_PREFILL_CHUNK is larger than ENGINE_MAX_CONTEXT.",
            hint="No prompt is that long: lower the one or raise the other.",
            id="loraportal.W004",
        )
    if settings.ENGINE_USER_LIMIT > settings.ENGINE_QUEUE_LIMIT:
        yield checks.Warning(
            "ENGINE_USER_LIMIT is larger than ENGINE_QUEUE_LIMIT, so one user can fill the queue.",
            hint="Lower ENGINE_USER_LIMIT.",
            id="loraportal.W005",
        )


def has_cuda_driver() -> bool:
    """Without torch, which a web process does not load: the device nodes of the driver (also under WSL)."""
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"))


@register("loraportal")
def check_address(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not is_local(settings.HOST) and all(is_local(host) for host in settings.ALLOWED_HOSTS):
        yield checks.Warning(
            f"HOST={settings.HOST} listens to the network, but ALLOWED_HOSTS names only this machine.",
            hint="Add the name or address that people will type to ALLOWED_HOSTS.",
            id="loraportal.W006",
        )
    if settings.DEBUG and not is_local(settings.HOST):
        yield checks.Error(
            f"DEBUG shows internals to everybody who can reach HOST={settings.HOST}.",
            hint="Set DEBUG=false, or HOST=127.0.0.1.",
            id="loraportal.E010",
        )
    for origin in settings.CSRF_TRUSTED_ORIGINS:
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path or parts.query:
            yield checks.Error(
                f"CSRF_TRUSTED_ORIGINS: {origin} is no origin.",
                hint="Write scheme and host, and a port where it is not the usual one: https://portal.example.org",
                id="loraportal.E011",
            )


def is_local(host: str) -> bool:
    name = host.strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


@register("loraportal")
def check_static_files(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    backend = settings.STORAGES["staticfiles"]["BACKEND"]
    if "Manifest" in backend and not (Path(settings.STATIC_ROOT) / "staticfiles.json").exists():
        yield checks.Warning(
            "The static files have not been collected, so pages cannot be shown.",
            hint="Run: python manage.py collectstatic --noinput (make run does it by itself)",
            id="loraportal.W007",
        )


@register("loraportal", deploy=True)
def check_exposure(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if "*" in settings.ALLOWED_HOSTS:
        yield checks.Warning(
            "ALLOWED_HOSTS accepts every host name.",
            hint="Name the hosts that this portal answers for.",
            id="loraportal.W001",
        )
