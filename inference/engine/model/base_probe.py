"""A look at a base when it is registered: `python -m inference.engine.model.base_probe FOLDER` prints a JSON object.

`{"supported": true}`, `{"supported": false, "reason": …}`, or `{"supported": null, "reason": …}` where the structure
alone does not tell (the first load will). Reads config.json only, builds the model without weights, runs no code of the
folder. Meant for a child process: it imports torch, and a hostile configuration costs nobody else anything.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from inference.engine.errors import EngineError

from .base_support import check_interface, trace_layers

TOKENS = list(range(4, 16))


def probe(folder: Path) -> dict[str, Any]:
    """The verdict as described above; never raises for what a folder may hold."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  (what a configuration class raises for its fields is its own affair)
        return {"supported": False, "reason": first_line(error, folder)}
    if type(config) not in AutoModelForCausalLM._model_mapping:
        return {"supported": False, "reason": f"{config.model_type} is not a language model that Transformers knows"}
    try:
        with torch.device("meta"), torch.inference_mode():
            if hasattr(config, "quantization_config"):
                del config.quantization_config  # of its storage; the structure is the same
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=False, attn_implementation="eager", dtype=torch.bfloat16
            )
            check_interface(model, folder.name)
            trace_layers(model.eval(), folder.name, [token % config.get_text_config().vocab_size for token in TOKENS])
    except EngineError as error:
        return {"supported": False, "reason": error.detail.get("reason", error.message)}
    except Exception as error:  # noqa: BLE001  (an architecture's own code on tensors without numbers may fail anyhow)
        return {"supported": None, "reason": first_line(error, folder)}
    return {"supported": True}


def first_line(error: Exception, folder: Path) -> str:
    return str(error).strip().split("\n", 1)[0].replace(str(folder), folder.name).rstrip(".")[:300]


def end_with_parent() -> None:
    """The end of standard input: whoever asked is gone, so nobody wants the answer."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.stdout.write(json.dumps(probe(Path(sys.argv[1]))) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the thread that reads standard input would hold up an ordinary end


if __name__ == "__main__":
    main()
