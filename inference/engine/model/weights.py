"""Is every number of a loaded model from its files? By what Transformers reports about a load.

Transformers fills a tensor that the files lack with random numbers and goes on; an answer of such a model is nobody's.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEADER_LIMIT = 64 * 2**20  # bytes
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # as Transformers looks for them, in this order
NAMED, LONGEST_NAMES = 3, 150  # tensors that a refusal names, and their characters altogether
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
# Tensors that a file may hold beyond the model, because no answer to a text depends on them. What a class itself
# ignores (`_keys_to_ignore_on_load_unexpected`), Transformers has taken out of its report before.
HARMLESS = re.compile(
    "|".join(
        [
            # Computed from the configuration; older releases stored them.
            r"(^|\.)(rotary_emb|rotary|rope)\.(original_)?inv_freq$",
            r"(^|\.)position_ids$",
            r"\.(attn|attention)\.(masked_)?bias$",  # the causal mask of GPT-2 and its kin, not a bias that is added
            # Drafts several tokens ahead (multi-token prediction), which this engine never asks for.
            r"(^|\.)mtp(_\w+)?\.",
            # Towers of a multimodal model whose language model alone is served: text never enters them.
            r"(^|\.)(vision_tower|vision_model|vision_encoder|visual|vision_embed_tokens|embed_vision)\.",
            r"(^|\.)(audio_tower|audio_model|audio_encoder|embed_audio)\.",
            r"(^|\.)(multi_modal_projector|mm_projector|multimodal_projector)\.",
            r"^v_head\.",  # the value head that training by rewards adds beside the model
        ]
    )
)


def complaint(info: Mapping[str, Any], config: Any) -> str:
    """Why the model is not the one in the files; "" where it is.

    `info`: what `from_pretrained(..., output_loading_info=True)` reports. Tensors that are tied by design are not
    missing there as long as the file holds one of them; buffers count where the model would store them.
    """
    found = [
        ("its files lack {} of the model", sorted(info["missing_keys"])),
        ("its files have another shape for {}", sorted(key for key, *_ in info["mismatched_keys"])),
        (
            "its files hold {} that the model does not have",
            sorted(key for key in info["unexpected_keys"] if not harmless(key, config)),
        ),
    ]
    said = [(words, names) for words, names in found if names]
    # The first is named; the others mostly follow from it.
    return "; ".join(
        words.format(listed(names, NAMED if index == 0 else 0)) for index, (words, names) in enumerate(said)
    )


def harmless(key: str, config: Any) -> bool:
    """Whether a tensor that the model has no place for changes no answer."""
    if HARMLESS.search(key):
        return True
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    drafting = getattr(text, "num_nextn_predict_layers", None)
    match = LAYER.search(key)
    # DeepSeek-V3 and GLM-4.5 store their drafting layers after the model's own.
    return (
        match is not None
        and isinstance(layers, int)
        and isinstance(drafting, int)
        and layers <= int(match[1]) < layers + drafting
    )


def listed(names: list[str], named: int) -> str:
    """How many tensors, and the names of the first `named`, as far as they fit into a sentence."""
    count = f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'}"
    shown: list[str] = []
    for name in names[:named]:
        if shown and sum(map(len, shown)) + len(name) > LONGEST_NAMES:
            break
        shown.append(name[:LONGEST_NAMES])
    return f"{count} ({', '.join(shown)}{', …' if len(shown) < len(names) else ''})" if shown else count


def header(file: Path) -> dict[str, Any]:
    """Name -> {"dtype", "shape", "data_offsets"} of a safetensors file. Raises OSError, ValueError, struct.error."""
    with open(file, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        entries: dict[str, Any] = json.loads(stream.read(min(size, HEADER_LIMIT)))
    entries.pop("__metadata__", None)
    return entries


def stored_shapes(folder: Path) -> dict[str, list[int]]:
    """Name and shape of every tensor that Transformers would load from a folder; empty where it holds no weights.

    Raises OSError, ValueError, KeyError, TypeError, AttributeError, struct.error.
    """
    if (folder / SINGLE).exists():
        names = {SINGLE}
    elif (folder / INDEX).exists():
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    else:
        return {}
    return {key: entry["shape"] for name in sorted(names) for key, entry in header(folder / name).items()}
