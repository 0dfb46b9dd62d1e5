"""Formulas that registry and engine each state for themselves, since neither imports the other, agree."""

from __future__ import annotations

import os
from pathlib import Path

from adapters import store
from adapters.bases import registry
from adapters.formats import config
from adapters.training.layout import CONFIG, WEIGHTS
from inference.engine import content
from tests.fixtures.models import TinyAdapter, write_tiny_adapter, write_tiny_base


def test_the_digest_of_a_copy(tmp_path: Path) -> None:
    folder = write_tiny_adapter(tmp_path / "adapter", TinyAdapter())
    digest = store.digest_of((str(tmp_path),), str(folder))
    assert content.digest_of(folder) == digest
    said, weights = content.read_copy(folder, digest, "adapter", 2**30)
    assert (said, weights) == ((folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes())
    assert (content.CONFIG, content.WEIGHTS, content.CONFIG_LIMIT) == (CONFIG, WEIGHTS, config.LIMIT)


def test_the_signature_of_a_base(tmp_path: Path) -> None:
    folder = write_tiny_base(tmp_path / "models" / "tiny")
    (folder / "gone").symlink_to("nowhere")
    (folder / os.fsdecode(b"not-\xff-utf8")).touch()

    def both() -> set[str]:
        (seen,) = registry.find_folders(str(tmp_path / "models"))
        return {seen.signature, content.folder_signature(str(folder))}

    before = both()
    assert len(before) == 1
    (folder / "config.json").write_text("{}")
    assert len(both()) == 1 and both() != before
    templates = folder / "additional_chat_templates"
    templates.mkdir()
    (templates / "additional_chat_templates").symlink_to(".")
    (templates / "default.jinja").write_text("one")
    before = both()
    (templates / "default.jinja").write_text("two")
    assert len(both()) == 1 and both() != before
