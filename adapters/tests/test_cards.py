"""The model card on an adapter's page: its fields and its text, bounded, and nothing of it is markup."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from adapters import cards, services
from adapters.models import LoraAdapter
from adapters.tests import layouts as make
from adapters.training.model_card import fields_of, tags_of, text_of

CARD = """---
base_model: tiny/base
license: mit
language: [en, zh]
tags:
- base_model:adapter:tiny/base
- lora
- 'trl'
model-index:
- name: x
---

# Pirate <!-- a comment
of two lines --> lora
<!-- alone -->
<p align="center"><img src="https://files.example/a.png" alt="Made with X" width="9"/><br></p>
[<img src="https://files.example/b.png"/>](https://files.example)
Use `<p>` as is, and 1 < 2 <script>alert(1)</script>

```html
<!-- kept --><p>
```
"""


def test_fields_and_text() -> None:
    fields = fields_of(CARD.encode())
    assert tags_of(fields) == ["lora", "trl"] and fields["language"] == ["en", "zh"]
    assert text_of(CARD.encode()).split("\n") == [
        "# Pirate ", " lora", "Made with X", "[–](https://files.example)",
        "Use `<p>` as is, and 1 < 2 <script>alert(1)</script>", "", "```html", "<!-- kept --><p>", "```",
    ]  # fmt: skip
    assert text_of(b"---\nno end\n# x") == "---\nno end\n# x" and text_of(b"") == "" and text_of(b"\xff") == "\ufffd"


@pytest.mark.parametrize("part", ["<!--", "<p ", "<p <", "```\n", "---\n", "<img alt=", "-->", "`", "<!-- --><p>"])
def test_a_hostile_text_takes_no_time(part: str) -> None:
    data = (part * (cards.LIMIT // len(part))).encode()
    begin = time.process_time()
    text_of(data)
    assert time.process_time() - begin < 2


@pytest.mark.django_db
def test_the_page_shows_it_as_text(registry: Path, operator: Any, client: Client) -> None:
    folder = make.adapter(registry / "pirate")
    (folder / "README.md").write_text(CARD)
    services.scan(None)
    adapter = LoraAdapter.objects.get()
    client.force_login(operator)
    page = client.get(f"/models/{adapter.pk}").content.decode()
    assert "data-markdown" in page and "tiny/base" in page and "en, zh" in page and "model-index" not in page
    assert "base_model:adapter" not in page
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and "files.example/a.png" not in page
    assert "card-more" not in page
    (folder / "README.md").write_text("# Long\n" + "line\n\n" * cards.LIMIT)
    page = client.get(f"/models/{adapter.pk}").content.decode()
    assert "card-more" in page and "only its beginning" in page and len(page) < cards.LIMIT + 100_000
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/hostname")
    assert "model-card" not in client.get(f"/models/{adapter.pk}").content.decode()
