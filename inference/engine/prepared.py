"""What the engine's process and the look at a base import, for a process that forks both (`launching/forks.py`)."""

from . import imports

imports.begin()

import transformers.models.llama.modeling_llama  # noqa: E402, F401  (with what the other families' files import)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping  # noqa: E402

from . import worker  # noqa: E402, F401
from .model import base_probe, runner  # noqa: E402, F401

get_checkpoint_conversion_mapping("llama")  # makes the table for all families
imports.end()
