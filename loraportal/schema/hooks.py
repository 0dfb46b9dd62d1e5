"""Which paths the description lists, and under which heading."""

from __future__ import annotations

from typing import Any

Endpoint = tuple[str, str, str, Any]
HEADINGS = {
    "/api/lora": "Registry",
    "/api/inference": "Engine",
    "/api/usage": "Use",
    "/api/chat": "Conversations",
    "/api/compare": "Votes",
    "/api/assistants": "Assistants",
    "/api/prompts": "Prompt library",
    "/api/evaluations": "Evaluations",
    "/v1": "OpenAI-compatible",
}


def bare_paths(endpoints: list[Endpoint], **_kwargs: Any) -> list[Endpoint]:
    """Every call of the API once: its spelling with a trailing slash is the same call."""
    return [entry for entry in endpoints if entry[0].startswith(("/api/", "/v1/")) and not entry[0].endswith("/")]


def headings(result: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
    for path, methods in result["paths"].items():
        tag = next((name for start, name in HEADINGS.items() if path.startswith(start)), "Other")
        for operation in methods.values():
            operation["tags"] = [tag]
    return result
