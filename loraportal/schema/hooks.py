"""Which paths the description lists, and under which heading."""

from __future__ import annotations

from typing import Any

Endpoint = tuple[str, str, str, Any]
HEADINGS = {"/api/lora": "Registry", "/api/inference": "Engine", "/api/usage": "Use", "/v1": "OpenAI-compatible"}


def bare_paths(endpoints: list[Endpoint], **_kwargs: Any) -> list[Endpoint]:
    """Every path once: its spelling with a trailing slash is the same call."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]


def headings(result: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
    for path, methods in result["paths"].items():
        tag = next((name for start, name in HEADINGS.items() if path.startswith(start)), "Other")
        for operation in methods.values():
            operation["tags"] = [tag]
    return result
