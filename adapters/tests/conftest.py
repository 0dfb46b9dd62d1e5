from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from adapters import hooks
from adapters.tests import layouts


class RecordingSide:
    """A running side that runs nothing and remembers what was released."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []  # digest, reason

    def released(self, digest: str, reason: str) -> None:
        self.heard.append((digest, reason))

    def drain(self, digest: str, timeout: float) -> bool:
        return True

    def template_fault(self, template: str, tokens: Mapping[str, str]) -> str:
        return ""

    def promote(self, stored: hooks.Stored) -> hooks.Promotion:
        return hooks.Promotion()

    def sweep(self, unwanted: Callable[[str], bool], dry_run: bool) -> list[tuple[str, int]]:
        return []

    def check(
        self, copies: Sequence[hooks.ServedCopy], dry_run: bool, thorough: bool, tell: hooks.Tell
    ) -> list[hooks.PublishedFault]:
        return []

    def base_support(self, folder: str) -> hooks.BaseSupport:
        return hooks.BaseSupport()


@pytest.fixture
def running_side() -> Iterator[RecordingSide]:
    """Registered in place of the real one."""
    side = RecordingSide()
    before = hooks.register(side)
    yield side
    hooks.register(before)


@pytest.fixture
def op(operator: Any) -> Client:
    """The browser of an operator who has signed in."""
    client = Client()
    client.force_login(operator)
    return client


@pytest.fixture
def uploads(registry: Path, settings: Any, tmp_path: Path) -> Path:
    """The folder of uploads, which is a root like others."""
    settings.UPLOADS_DIR = tmp_path / "uploads"
    settings.LORA_ROOTS = [registry, settings.UPLOADS_DIR]
    return tmp_path / "uploads"


@pytest.fixture
def registry(tmp_path: Path, settings: Any) -> Path:
    """An empty root that is configured, a store, and one tiny base model. Returns the root."""
    root = tmp_path / "adapters"
    root.mkdir()
    settings.VAR_DIR = tmp_path
    settings.LORA_ROOTS = [root]
    settings.STORE_DIR = tmp_path / "store"
    settings.BASE_MODELS_DIR = tmp_path / "models"
    settings.SCAN_SETTLE_SECONDS = 0.0
    layouts.base_model(tmp_path / "models" / layouts.BASE_NAME)
    return root


@pytest.fixture
def operator(db: None) -> Any:
    return get_user_model().objects.create_user("operator", password="x", is_staff=True)  # type: ignore[attr-defined]


@pytest.fixture
def person(db: None) -> Any:
    return get_user_model().objects.create_user("person", password="x")  # type: ignore[attr-defined]
