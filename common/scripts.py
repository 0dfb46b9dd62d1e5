"""Which modules a page's script brings with it, so that the page can ask for all of them at once."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from django.contrib.staticfiles import finders

# Of the statements at the beginnings of lines; what a call imports later is fetched when it is wanted.
IMPORTS = re.compile(r"""^(?:import|export)\b[^;'"(]*["']([^"'\n]+)["']""", re.MULTILINE)


def modules_of(script: str) -> tuple[str, ...]:
    """The static files that this one imports, and those that they import, each once and without itself, in the order
    in which a browser would learn of them. What is not of this portal's static files is left out."""
    known = [script]
    for name in known:
        found = finders.find(name)
        if found is None:
            continue
        for address in IMPORTS.findall(Path(str(found)).read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), address))
            inside = address.startswith(".") and not path.startswith("../")
            if inside and path not in known and finders.find(path):
                known.append(path)
    return tuple(known[1:])
