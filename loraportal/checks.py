"""System checks: what an operator may have set wrong, each with an id and a hint."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register


@register("loraportal")
def check_folders(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    var = settings.VAR_DIR
    existing = next((p for p in (var, *var.parents) if p.exists()), var)
    if not os.access(existing, os.W_OK | os.X_OK):
        found.append(
            Error(
                f"VAR_DIR {var} cannot be written.",
                hint="Set VAR_DIR to a folder that this user may write.",
                id="loraportal.E001",
            )
        )
    for root in settings.LORA_ROOTS:
        if root.exists() and not os.access(root, os.R_OK | os.X_OK):
            found.append(
                Error(
                    f"LORA_ROOTS: {root} cannot be read.",
                    hint="Give this user read access, or take the folder out of LORA_ROOTS.",
                    id="loraportal.E002",
                )
            )
        if root == settings.STORE_DIR or settings.STORE_DIR in root.parents or root in settings.STORE_DIR.parents:
            found.append(
                Error(
                    f"LORA_ROOTS: {root} and the adapter store {settings.STORE_DIR} lie inside one another.",
                    hint="Training output and the store must be separate folders.",
                    id="loraportal.E003",
                )
            )
    return found


@register("loraportal")
def check_drivers(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.DATABASES["default"]["ENGINE"].endswith("mysql") and find_spec("MySQLdb") is None:
        found.append(
            Error(
                "DATABASE_URL names MySQL but mysqlclient is not installed.",
                hint="Run: pip install -r requirements-mysql.txt",
                id="loraportal.E004",
            )
        )
    return found


@register("loraportal", deploy=True)
def check_exposure(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if "*" in settings.ALLOWED_HOSTS:
        return [
            Warning(
                "ALLOWED_HOSTS accepts every host name.",
                hint="Name the hosts that this portal answers for.",
                id="loraportal.W001",
            )
        ]
    return []
