"""A base's folder holds numbers and settings; programs in it, pickled ones too, are never run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from inference.engine.model import base_loader
from inference.engine.model.base_probe import probe

from .conftest import Family

CODE = """
open({canary!r}, "w").close()
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer
"""


def load(folder: Path) -> Any:
    return base_loader.load_model(folder, "fp32", torch.device("cpu"), lambda _fraction: None)


def test_pickled_weights_of_a_base_are_not_loaded(llama: Family, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(llama.base, folder)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError):
        load(folder)


@pytest.mark.parametrize("look", [load, base_loader.load_tokenizer, probe], ids=["model", "tokenizer", "probe"])
def test_code_in_a_bases_folder_is_not_run(llama: Family, tmp_path: Path, look: Callable[[Path], Any]) -> None:
    folder = tmp_path / "base"
    shutil.copytree(llama.base, folder)
    (folder / "evil.py").write_text(CODE.format(canary=str(tmp_path / "canary")))
    names = {
        "config.json": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
        "tokenizer_config.json": {"AutoTokenizer": [None, "evil.Tokenizer"]},
    }
    for name, table in names.items():
        said = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**said, "auto_map": table}))
    look(folder)
    assert not (tmp_path / "canary").exists()
