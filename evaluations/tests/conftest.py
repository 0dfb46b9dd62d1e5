from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from evaluations import sets
from evaluations.items import read_item
from evaluations.models import PromptSet
from inference.tests.conftest import make_manager, manager, registry  # noqa: F401  (fixtures)


@pytest.fixture
def make_set(owner: User) -> Callable[..., PromptSet]:
    """A set of `owner` with these items, a text alone being a prompt."""

    def make(*items: Any, name: str = "greetings", **facts: Any) -> PromptSet:
        rows = [read_item({"prompt": one} if isinstance(one, str) else one) for one in items]
        return sets.create(facts.pop("owner", owner), name, items=rows, **facts)

    return make
