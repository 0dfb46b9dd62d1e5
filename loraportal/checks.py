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
from django.utils.translation import gettext as _

from adapters.hub.hosts import file_hosts
from evaluations.gates.sending import allowed

LITTLE_SPACE = 2**30
LEAST_SECRET = 32  # characters of the key that webhooks are signed with
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
            _("VAR_DIR %(folder)s cannot be written to.") % {"folder": settings.VAR_DIR},
            hint=_("Set VAR_DIR to a folder that this user can write to."),
            id="loraportal.E001",
        )
        return
    free = shutil.disk_usage(existing).free
    if free < LITTLE_SPACE:
        yield checks.Warning(
            _("The disk of VAR_DIR has %(mebibytes)s MiB left.") % {"mebibytes": free // 2**20},
            hint=_("Free some space or move VAR_DIR: activation copies adapters there."),
            id="loraportal.W002",
        )


@register("loraportal")
def check_adapter_roots(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    own = (settings.VAR_DIR / "adapters", settings.UPLOADS_DIR)  # made when the portal starts
    for root in settings.LORA_ROOTS:
        if not root.exists():
            if root not in own:
                yield checks.Warning(
                    _("LORA_ROOTS: %(folder)s does not exist.") % {"folder": root},
                    hint=_("Mount it or correct LORA_ROOTS; until then its adapters are shown as missing."),
                    id="loraportal.W003",
                )
        elif not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
            yield checks.Error(
                _("LORA_ROOTS: %(folder)s cannot be read.") % {"folder": root},
                hint=_("Specify a folder that this user can read, or remove it from LORA_ROOTS."),
                id="loraportal.E002",
            )
        if inside(root, settings.STORE_DIR) or inside(settings.STORE_DIR, root):
            yield checks.Error(
                _("LORA_ROOTS: %(folder)s and the adapter store %(store)s are inside one another.")
                % {"folder": root, "store": settings.STORE_DIR},
                hint=_("Training output and the store must be separate folders."),
                id="loraportal.E003",
            )


@register("loraportal")
def check_store_intervals(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if settings.STORE_HASH_INTERVAL and not settings.STORE_CHECK_INTERVAL:
        yield checks.Warning(
            _("STORE_CHECK_INTERVAL is 0, so no stored copy is read again after STORE_HASH_INTERVAL either."),
            hint=_("Set STORE_CHECK_INTERVAL to 60, or STORE_HASH_INTERVAL to 0 as well."),
            id="loraportal.W008",
        )
    elif 0 < settings.STORE_HASH_INTERVAL < settings.STORE_CHECK_INTERVAL:
        yield checks.Warning(
            _("STORE_HASH_INTERVAL is shorter than STORE_CHECK_INTERVAL, but copies are only read at each check."),
            hint=_("Increase STORE_HASH_INTERVAL or decrease STORE_CHECK_INTERVAL."),
            id="loraportal.W009",
        )


@register("loraportal")
def check_models_dir(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    folder = settings.BASE_MODELS_DIR
    if folder.exists() and (not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK)):
        yield checks.Error(
            _("BASE_MODELS_DIR %(folder)s cannot be read.") % {"folder": folder},
            hint=_("Specify a folder of model folders that this user can read."),
            id="loraportal.E005",
        )


@register("loraportal")
def check_database(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    engine = settings.DATABASES["default"].get("ENGINE", "")
    if engine.endswith("mysql") and find_spec("MySQLdb") is None:
        yield checks.Error(
            _("DATABASE_URL specifies MySQL but mysqlclient is not installed."),
            hint=_("Run: %(command)s") % {"command": "pip install -r requirements-mysql.txt"},
            id="loraportal.E004",
        )


@register("loraportal")
def check_traces(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if settings.OTEL_TRACES and find_spec("opentelemetry") is None:
        yield checks.Error(
            _("OTEL_TRACES is on but OpenTelemetry is not installed."),
            hint=_("Run: %(command)s") % {"command": "pip install -r requirements-otel.txt"},
            id="loraportal.E012",
        )


@register("loraportal")
def check_redis(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if settings.REDIS_URL and urlsplit(settings.REDIS_URL).scheme not in {"redis", "rediss", "unix"}:
        yield checks.Error(
            _("REDIS_URL is not a Redis address."),
            hint=_("Use redis://host:6379/0, or leave it empty to run without Redis."),
            id="loraportal.E006",
        )


@register("loraportal")
def check_engine(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    module, separator, name = settings.ENGINE_RUNNER.partition(":")
    if not (separator and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        yield checks.Error(
            _("ENGINE_RUNNER is not of the form package.module:Class (%(value)s).") % {"value": settings.ENGINE_RUNNER},
            hint=_("Leave it out to use the engine's own runner."),
            id="loraportal.E007",
        )
    if settings.ENGINE_MAX_GPU_MEMORY and not MEMORY.fullmatch(settings.ENGINE_MAX_GPU_MEMORY):
        yield checks.Error(
            _("ENGINE_MAX_GPU_MEMORY is not an amount of memory (%(value)s).")
            % {"value": settings.ENGINE_MAX_GPU_MEMORY},
            hint=_("Use a number and a unit, for example 5.5GiB."),
            id="loraportal.E008",
        )
    if settings.ENGINE_DEVICE == "cuda" and not has_cuda_driver():
        yield checks.Error(
            _("ENGINE_DEVICE is cuda, but no NVIDIA driver was found on this machine."),
            hint=_("Install the driver, or set ENGINE_DEVICE=auto to use the CPU."),
            id="loraportal.E009",
        )
    if settings.ENGINE_PREFILL_CHUNK > settings.ENGINE_MAX_CONTEXT:
        yield checks.Warning(
            _("ENGINE_PREFILL_CHUNK is larger than ENGINE_MAX_CONTEXT."),
            hint=_("No prompt can be that long: decrease ENGINE_PREFILL_CHUNK or increase ENGINE_MAX_CONTEXT."),
            id="loraportal.W004",
        )
    if settings.ENGINE_USER_LIMIT > settings.ENGINE_QUEUE_LIMIT:
        yield checks.Warning(
            _("ENGINE_USER_LIMIT is larger than ENGINE_QUEUE_LIMIT, so one user can fill the queue."),
            hint=_("Decrease ENGINE_USER_LIMIT."),
            id="loraportal.W005",
        )


@register("loraportal")
def check_fleet(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if settings.INFERENCE_BACKEND != "vllm":
        return
    if find_spec("httpx2") is None:
        yield checks.Error(
            _("INFERENCE_BACKEND is vllm but httpx2 is not installed."),
            hint=_("Run: %(command)s") % {"command": "pip install -r requirements-fleet.txt"},
            id="loraportal.E013",
        )
    folder = settings.FLEET_DIR
    existing = nearest_existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield checks.Error(
            _("FLEET_DIR %(folder)s cannot be written to.") % {"folder": folder},
            hint=_("Specify a folder that this user can write to and every replica can read."),
            id="loraportal.E014",
        )
    for other in [settings.STORE_DIR, settings.BASE_MODELS_DIR, *settings.LORA_ROOTS]:
        if inside(folder, other) or inside(other, folder):
            yield checks.Error(
                _("FLEET_DIR %(folder)s and %(other)s are inside one another.") % {"folder": folder, "other": other},
                hint=_("Give the published adapters a folder of their own."),
                id="loraportal.E015",
            )


@register("loraportal")
def check_webhooks(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    try:
        allowed()
    except ValueError:
        yield checks.Error(
            _("WEBHOOK_HOSTS contains something other than hosts."),
            hint=_("Use ci.example.org or ci.example.org:8443, and http://ci.example.org:8080 for one without TLS."),
            id="loraportal.E016",
        )
    if settings.WEBHOOK_HOSTS and len(settings.WEBHOOK_SECRET) < LEAST_SECRET:
        yield checks.Error(
            _("WEBHOOK_HOSTS is set, but WEBHOOK_SECRET has fewer than %(limit)s characters.")
            % {"limit": LEAST_SECRET},
            hint=_("Set it to a random key that the receivers know, for example from: %(command)s")
            % {"command": "openssl rand -hex 32"},
            id="loraportal.E017",
        )


@register("loraportal")
def check_hub(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not settings.HUB_IMPORT:
        return
    try:
        file_hosts()
    except ValueError:
        yield checks.Error(
            _("HUB_FILE_HOSTS contains something other than hosts."),
            hint=_("Use cdn.example.org or *.example.org, and http://files.example.org:9000 for one without TLS."),
            id="loraportal.E018",
        )
    parts = urlsplit(settings.HF_ENDPOINT)
    if not parts.hostname:
        yield checks.Error(
            _("HUB_IMPORT is on, but HF_ENDPOINT is empty."),
            hint=_("Set HF_ENDPOINT to the hub or a mirror, such as https://huggingface.co."),
            id="loraportal.E019",
        )
    elif settings.HUB_TOKEN and parts.scheme == "http" and not is_local(parts.hostname):
        yield checks.Warning(
            _("The token of HUB_TOKEN_FILE is sent to HF_ENDPOINT without TLS."),
            hint=_("Use an https:// address."),
            id="loraportal.W010",
        )


def has_cuda_driver() -> bool:
    """Without torch, which a web process does not load: the device nodes of the driver (also under WSL)."""
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"))


@register("loraportal")
def check_address(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if not is_local(settings.HOST) and all(is_local(host) for host in settings.ALLOWED_HOSTS):
        yield checks.Warning(
            _("HOST=%(host)s listens on the network, but ALLOWED_HOSTS contains only this machine.")
            % {"host": settings.HOST},
            hint=_("Add the host name or address that users will enter to ALLOWED_HOSTS."),
            id="loraportal.W006",
        )
    if settings.DEBUG and not is_local(settings.HOST):
        yield checks.Error(
            _("DEBUG exposes internal details to everybody who can reach HOST=%(host)s.") % {"host": settings.HOST},
            hint=_("Set DEBUG=false, or HOST=127.0.0.1."),
            id="loraportal.E010",
        )
    for origin in settings.CSRF_TRUSTED_ORIGINS:
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path or parts.query:
            yield checks.Error(
                _("CSRF_TRUSTED_ORIGINS: %(origin)s is not an origin.") % {"origin": origin},
                hint=_("Specify scheme and host, and the port if it is not the default: https://portal.example.org"),
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
            _("The static files have not been collected, so pages cannot be shown."),
            hint=_("Run: %(command)s (make run does this automatically)")
            % {"command": "python manage.py collectstatic --noinput"},
            id="loraportal.W007",
        )


@register("loraportal", deploy=True)
def check_exposure(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    if "*" in settings.ALLOWED_HOSTS:
        yield checks.Warning(
            _("ALLOWED_HOSTS accepts every host name."),
            hint=_("List the host names of this portal."),
            id="loraportal.W001",
        )
