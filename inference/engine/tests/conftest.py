from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from . import tiny


@dataclass
class Family:
    """A tiny base and its adapters on disk."""

    name: str
    base: Path
    adapters: dict[str, Path]


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Makes a family's files on first asking; they are shared, so tests must not change them."""
    made: dict[str, Family] = {}

    def get(name: str) -> Family:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            base = tiny.write_base(root / f"tiny-{name}", name)
            adapters = {key: tiny.write_adapter(root / key, base, recipe) for key, recipe in tiny.RECIPES.items()}
            made[name] = Family(name, base, adapters)
        return made[name]

    return get


@pytest.fixture(scope="session")
def llama(family: Callable[[str], Family]) -> Family:
    return family("llama")
