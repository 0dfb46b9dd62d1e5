#!/usr/bin/env python
"""Django's command-line utility for LoRA Portal."""

import gc
import os
import sys


def main() -> None:
    gc.disable()  # imports leave no garbage; `loraportal.apps` sets it going again when the models are imported
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraportal.settings")
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        settings.INSTALLED_APPS  # noqa: B018  (reads the settings, so that a wrong value gets its own sentence)
    except ImproperlyConfigured as error:
        sys.exit(f"Settings: {error}")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
