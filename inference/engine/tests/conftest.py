from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from inference.engine.native import library
from tests.fixtures.shared import kernels

from . import tiny


@dataclass
class Family:
    """A tiny base and its adapters on disk."""

    name: str
    base: Path
    adapters: dict[str, Path]


@pytest.fixture(scope="session", autouse=True)
def shared_kernels() -> Iterator[None]:
    """Engines without a folder of their own take the kernels that this run has built, not each a build of its own."""
    build = library.built
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "built", lambda compiler, folder: build(compiler, folder or str(kernels())))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """What is made in a test computes on one thread, unless it asks for more."""
    torch.set_num_threads(1)


@pytest.fixture
def two_threads(one_thread: None) -> None:
    """Kernels that are made in this test divide their work."""
    torch.set_num_threads(2)


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
