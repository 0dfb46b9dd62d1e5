from __future__ import annotations

import pytest
from django.contrib.auth.models import User


@pytest.mark.parametrize("word", ["mixedcase", "MIXEDCASE", "dCa", "100%", "a_b", "\\"])
def test_search_ignores_case_and_takes_signs_as_they_are(db: None, word: str) -> None:
    User.objects.create(username="one", last_name="MixedCase 100% a_b \\")
    User.objects.create(username="two", last_name="mixed case 1000 axb /")
    found = User.objects.filter(last_name__icontains=word).values_list("username", flat=True)
    assert list(found) == ["one"]
