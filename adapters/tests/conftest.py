from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from adapters.tests import layouts


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
