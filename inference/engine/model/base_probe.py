"""A look at a base when it is registered: `python -m inference.engine.model.base_probe FOLDER` prints a JSON object.

`{"supported": true, "layers": {name: [outputs, inputs, role]}, "earlier_names": {name: name}}`,
`{"supported": false, "reason": …}`, or `{"supported": null, "reason": …}` where the structure alone does not tell (the
first load will). Reads config.json, the headers of the weights and the tokenizer, builds the
model without numbers, runs no code of the folder but its chat template, in a sandbox. Meant for a child
process: it imports torch, and a hostile configuration costs nobody else anything.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
from pathlib import Path
from typing import Any

from inference.engine import imports

if __name__ == "__main__":
    imports.begin()

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.auto_factory import _get_model_class

import launching
from inference.engine.errors import EngineError
from inference.engine.lora.proof import PROBE_LIMIT, QUESTION, probe_tokens
from inference.engine.model.weights import complaint, stored_shapes
from inference.engine.text.prompts import encode
from inference.engine.text.rendering import ENDLESS

from . import base_loader, linear
from .base_support import check_interface, refused, trace_layers
from .renaming import earlier_names

TOKENS = list(range(4, 16))
PATIENCE = 20.0  # seconds for a probe of the chat template, which takes milliseconds
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")


def probe(folder: Path) -> dict[str, Any]:
    """The verdict as described above, without the layers; never raises for what a folder may hold."""
    return look_at(folder)[0]


def look_at(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the verdict, `layers` and `earlier_names` where it is a good one)"""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  (what a configuration class raises for its fields is its own affair)
        return {"supported": False, "reason": first_line(error, folder)}, {}
    if type(config) not in AutoModelForCausalLM._model_mapping:
        reason = f"{config.model_type} is not a language model that Transformers knows"
        return {"supported": False, "reason": reason}, {}
    quantised = hasattr(config, "quantization_config")
    if quantised:
        del config.quantization_config  # of its storage; the structure is the same
    try:
        with torch.device("meta"), torch.inference_mode():
            model = None if quantised else from_headers(folder, config)
            if model is None:
                model = AutoModelForCausalLM.from_config(
                    config, trust_remote_code=False, attn_implementation="eager", dtype=torch.bfloat16
                )
            check_interface(model, folder.name)
            tokens = [token % config.get_text_config().vocab_size for token in TOKENS]
            seen, _shapes = trace_layers(model.eval(), folder.name, tokens)
            found = {"layers": linear.layers_of(model, seen, len(tokens), 1), "earlier_names": names_of(model, folder)}
        check_tokenizer(folder, config.get_text_config().vocab_size)
    except EngineError as error:
        if error.code != "base_unsupported":
            return {"supported": None, "reason": error.message}, {}
        return {"supported": False, "reason": error.detail.get("reason", error.message)}, {}
    except Exception as error:  # noqa: BLE001  (an architecture's own code on tensors without numbers may fail anyhow)
        return {"supported": None, "reason": first_line(error, folder)}, {}
    return {"supported": True}, found


def names_of(model: PreTrainedModel, folder: Path) -> dict[str, str]:
    """See `earlier_names`; none where the files cannot be read, which the registry says."""
    try:
        return earlier_names(model, stored_shapes(folder))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):
        return {}


def from_headers(folder: Path, config: Any) -> PreTrainedModel | None:
    """The model as Transformers itself would load it, names, conversions, ties and all, from tensors that have the
    shapes in the files and no numbers. None where there are no weights, or where that cannot be done without numbers.

    Raises EngineError `base_unsupported` where the files do not hold what the model is made of.
    """
    try:
        shapes = stored_shapes(folder)
        if not shapes:
            return None
        kind = _get_model_class(config, AutoModelForCausalLM._model_mapping)
        if kind.config_class == config.sub_configs.get("text_config"):
            config = config.get_text_config()
        tensors = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}
        model, info = kind.from_pretrained(
            None, config=config, state_dict=tensors, device_map={"": "meta"}, dtype=torch.bfloat16,
            attn_implementation="eager", output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception:  # noqa: BLE001  (headers that cannot be read are the registry's to find, the rest the first load's)
        return None
    if reason := complaint(info, config):
        raise refused(folder.name, reason)
    return model


def check_tokenizer(folder: Path, vocabulary: int) -> None:
    """Raises EngineError `base_unsupported` where no prompt can be made into tokens. A template that refuses the probe
    is no fault: it says so to who asks, and raw text is served."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return  # the registry says so
    tokenizer = base_loader.load_tokenizer(folder)
    failed: list[BaseException] = []

    def probe() -> None:
        try:
            probe_tokens(tokenizer, PROBE_LIMIT, vocabulary)
        except BaseException as error:  # noqa: BLE001  (a panic is no Exception)
            failed.append(error)

    # Whatever a tokenizer does, this process ends without waiting for its threads.
    thread = threading.Thread(target=probe, name="probe", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        raise refused(folder.name, "its chat template does not come to an end")
    if failed:
        raise refused(folder.name, f"its tokenizer fails ({first_line(failed[0], folder)})") from failed[0]
    try:
        encode(tokenizer, QUESTION, None, False)
    except EngineError as error:
        if error.detail.get("reason") == ENDLESS:
            raise refused(folder.name, f"its chat template: {ENDLESS}") from None


def first_line(error: BaseException, folder: Path) -> str:
    return str(error).strip().split("\n", 1)[0].replace(str(folder), folder.name).rstrip(".")[:300]


def end_with_parent() -> None:
    """The end of standard input: whoever asked is gone, so nobody wants the answer."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    imports.end()
    launching.appear_as("lora-probe")
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    verdict, found = look_at(Path(sys.argv[1]))
    sys.stdout.write(json.dumps({**verdict, **found}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the thread that reads standard input would hold up an ordinary end


if __name__ == "__main__":
    main()
