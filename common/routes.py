"""Every address answers with and without a trailing slash; a redirect would turn a POST into a GET."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path


def optional_slash(
    route: str, view: Callable[..., Any], name: str | None = None, kwargs: dict[str, Any] | None = None
) -> list[URLPattern]:
    """Two patterns for one view. The name belongs to the one without slash, which is what `reverse` gives."""
    bare = route.strip("/")
    if not bare:
        raise ValueError("The empty route has no second spelling: use path('').")
    return [path(bare, view, kwargs, name=name), path(f"{bare}/", view, kwargs)]
