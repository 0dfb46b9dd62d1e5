"""Names that layers have in files of other releases, which Transformers renames while it loads them.

Adapters carry them too: one that was trained when the class was built otherwise has the names of then, which are those
that the files of the base still have. PEFT renames them in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

WEIGHT = ".weight"


def earlier_names(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, str]:
    """Layer as the tensors `stored` in the base's files name it -> as the running model does, where these differ and it
    is still a layer."""
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    here = model.state_dict()
    found = {}
    for key in stored:
        if key.endswith(WEIGHT):
            name, _ = rename_source_key(key, renamings, converters, model.base_model_prefix, here)
            if name != key and name in here and name.endswith(WEIGHT):
                found[key.removesuffix(WEIGHT)] = name.removesuffix(WEIGHT)
    return found
