"""Writes `adapters/formats/peft_types.py` from the installed PEFT: `python -m adapters.tests.peft_types > …`.

No web process imports PEFT, so what it can do with each of its types is asked here, and a test sees that the file says
what the installed release says.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

HEAD = '''"""What PEFT {version} can do with adapters of its other types. Written by `adapters/tests/peft_types.py`."""

# convert_to_lora takes them: their layers say so (`supports_lora_conversion`).
CONVERTIBLE = {{
{convertible}
}}
# Soft prompts, which change no layer.
PROMPTS = {{
{prompts}
}}
# merge_and_unload takes them: their layers can be merged.
MERGEABLE = {{
{mergeable}
}}
'''


def found() -> tuple[list[str], list[str], list[str]]:
    """(convertible, prompts, mergeable), each by the names of `peft_type`."""
    import torch
    from peft import PeftType
    from peft.config import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = SimpleNamespace(get_base_layer=lambda: torch.nn.Linear(1, 1), lora_variant={})
    convertible, prompts, mergeable = [], [], []
    for kind in PeftType:
        if kind == PeftType.LORA or kind not in TUNERS:
            continue
        if issubclass(CONFIGS[kind], PromptLearningConfig):
            prompts.append(kind.value)
            continue
        classes = _layers(TUNERS[kind], BaseTunerLayer)
        own = [c for c in classes if c.supports_lora_conversion is not BaseTunerLayer.supports_lora_conversion]
        if any(c.supports_lora_conversion(layer) for c in own):
            convertible.append(kind.value)
        elif any(c.merge is not BaseTunerLayer.merge for c in classes):
            mergeable.append(kind.value)
    return sorted(convertible), sorted(prompts), sorted(mergeable)


def _layers(tuner: Any, base: type) -> list[Any]:
    package = importlib.import_module(tuner.__module__.rpartition(".")[0])
    classes = []
    for module in pkgutil.iter_modules(package.__path__):
        members = inspect.getmembers(importlib.import_module(f"{package.__name__}.{module.name}"), inspect.isclass)
        classes += [c for _, c in members if issubclass(c, base) and c.__module__.startswith(package.__name__)]
    return classes


def document() -> str:
    convertible, prompts, mergeable = ("\n".join(f'    "{name}",' for name in names) for names in found())
    release = ".".join(version("peft").split(".")[:2])
    return HEAD.format(version=release, convertible=convertible, prompts=prompts, mergeable=mergeable)


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201
