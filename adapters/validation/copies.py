"""Tensors in an adapter's file that the base has too: saved layers, biases; PEFT saves the embeddings in many a case.

Where they are the base's own, number by number, they change nothing, whatever they are called.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from django.utils.translation import gettext_noop

from adapters.bases.identity import base_root
from adapters.bases.shapes import EMBEDDING_NAMES, HEADS, POSITIONS, find_tensors
from adapters.failures import Refused
from adapters.formats.files import open_below, read_exactly
from adapters.formats.safetensors import Header, Tensor
from adapters.models import BaseModel

if TYPE_CHECKING:  # it takes a while and much memory, and only who compares numbers needs it
    import numpy as np

# What PEFT puts into the name of a module that it wraps, and what wraps the body of a model.
WRAPPED = (".base_layer", ".modules_to_save", ".original_module", ".token_adapter")
BODIES = {"base_model", "model", "transformer", "language_model", "gpt_neox", "decoder"}
STEP = 2**20  # numbers that are compared at once
SAMPLES, SAMPLE = 16, 2**14  # places in a tensor, numbers at each
REPLACED = ".original_module"
PARTLY = gettext_noop("the embedding and the output layer must both be saved, with as many rows: %(tensors)s")
Place = tuple[str, int, Tensor]  # file of the base, where the data of its tensors starts, the tensor
Theirs = dict[str, list[Place]]  # by the cores of their names
TYPES = {"F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}  # numpy's names, bytes


class Judged(NamedTuple):
    """`changed`: names of tensors that are not the base's own. `unknown`: one that the base does not have in its shape;
    "" for none, else nothing was compared. `vocabulary`: rows of an embedding and an output layer of another number of
    rows than the base's, which are among the changed; 0 for the base's."""

    changed: frozenset[str]
    unknown: str
    vocabulary: int = 0


def judge(file: BinaryIO, header: Header, base: BaseModel, thorough: bool) -> Judged:
    """Compare the tensors in `file` that the base has too with the base's.

    Not `thorough`: by their shapes and evenly spread samples. No number is read twice, and none of a tensor after its
    first difference. Raises Refused, OSError.
    """
    others = {name: tensor for name, tensor in header.others.items() if not _is_replaced(name, header)}
    if not others:
        return Judged(frozenset(), "")
    theirs: Theirs = defaultdict(list)
    for name, entry in find_tensors(base_root(), base.path).items():
        theirs[core_of(name)].append(entry)
    found = {}
    resized: dict[str, Tensor] = {}
    for name, tensor in others.items():
        match = [entry for entry in _candidates(name, theirs) if entry[2].shape == tensor.shape]
        if not match and _is_resized(name, tensor, theirs):
            resized[name] = tensor
        elif not match:
            return Judged(frozenset(), name)
        else:
            found[name] = match[0]
    vocabulary = _vocabulary(resized, found, theirs)
    changed = [
        name for name, own in found.items()
        if not _equal(file, header.data_start, others[name], base.path, own, thorough)
    ]  # fmt: skip
    return Judged(frozenset({*changed, *resized}), "", vocabulary)


def _is_replaced(name: str, header: Header) -> bool:
    """Whether it is a layer that PEFT keeps beside its trained copy, and saves along where it was resized."""
    return REPLACED in name and name.replace(REPLACED, "") in header.tensors


def _is_resized(name: str, tensor: Tensor, theirs: Theirs) -> bool:
    """Whether it is an embedding of tokens, an output layer or its bias, of another number of rows than the base's."""
    module = core_of(name).rpartition(".")[0]
    if module not in HEADS and (module == POSITIONS or module not in EMBEDDING_NAMES):
        return False
    shapes = [entry[2].shape for entry in _candidates(name, theirs)]
    return any(len(shape) == len(tensor.shape) and shape[1:] == tensor.shape[1:] for shape in shapes)


def _vocabulary(resized: dict[str, Tensor], found: dict[str, Place], theirs: Theirs) -> int:
    """Raises Refused vocabulary_resized where embedding and output layer do not have the same number of rows: what PEFT
    would make up for rows that were not saved is nobody's."""
    if not resized:
        return 0
    sizes = {name: tensor.shape[0] for name, tensor in resized.items()}
    named = ", ".join(f"{name}: {' x '.join(map(str, tensor.shape))}" for name, tensor in sorted(resized.items()))
    kinds = {"head" if core_of(name).rpartition(".")[0] in HEADS else "embedding" for name in resized}
    same = {"head" if core_of(name).rpartition(".")[0] in HEADS else "" for name in found}
    tied = not any(core.rpartition(".")[0] in HEADS for core in theirs)
    complete = kinds == {"head", "embedding"} or (kinds == {"embedding"} and tied and "head" not in same)
    if len(set(sizes.values())) > 1 or not complete:
        raise Refused("vocabulary_resized", reason=PARTLY, tensors=named)
    return next(iter(sizes.values()))


def core_of(name: str) -> str:
    """A tensor's name without what PEFT, multimodal models and older releases put around it."""
    for part in WRAPPED:
        name = name.replace(part, "")
    words = name.split(".")
    while len(words) > 1 and words[0] in BODIES:
        del words[0]
    return ".".join(words)


def _candidates(name: str, theirs: Theirs) -> list[Place]:
    core = core_of(name)
    found = theirs.get(core, [])
    module, _, kind = core.rpartition(".")
    if not found and module in HEADS and kind == "weight":  # tied to the embeddings: the base's file holds them once
        names = (f"{embedding}.weight" for embedding in sorted(EMBEDDING_NAMES))
        found = [entry for other in names for entry in theirs.get(other, [])]
    return found


def _equal(file: BinaryIO, data_start: int, tensor: Tensor, folder: str, own: Place, thorough: bool) -> bool:
    name, own_start, own_tensor = own
    mine, theirs = TYPES.get(tensor.dtype), TYPES.get(own_tensor.dtype)
    if mine is None or theirs is None:
        return False
    count = (tensor.end - tensor.start) // mine[1]
    if count <= SAMPLES * SAMPLE:  # samples would overlap
        places = [(0, count)]
    elif thorough:
        places = [(at, STEP) for at in range(0, count, STEP)]
    else:
        places = [(index * count // SAMPLES, SAMPLE) for index in range(SAMPLES)]
    with open_below(base_root(), folder, name) as base_file:
        for at, size in places:
            size = min(size, count - at)
            given = _read(file, data_start + tensor.start, at, size, mine)
            wanted = _cast(
                _read(base_file, own_start + own_tensor.start, at, size, theirs), own_tensor.dtype, tensor.dtype
            )
            if given.tobytes() != wanted.tobytes():
                return False
    return True


def _read(file: BinaryIO, start: int, at: int, size: int, kind: tuple[str, int]) -> np.ndarray[Any, Any]:
    import numpy as np

    dtype, itemsize = kind
    file.seek(start + at * itemsize, os.SEEK_SET)
    data = read_exactly(file, size * itemsize)
    return np.frombuffer(data[: len(data) - len(data) % itemsize], dtype)


def _cast(numbers: np.ndarray[Any, Any], source: str, target: str) -> np.ndarray[Any, Any]:
    """The base's numbers in the type of the copy: a model that is trained in another precision is saved in that."""
    import numpy as np

    if source == target:
        return numbers
    wide = (numbers.astype("<u4") << 16).view("<f4") if source == "BF16" else numbers.astype("<f4")
    if target == "BF16":  # to the nearest, ties to even
        bits = wide.view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    with np.errstate(over="ignore"):
        return wide.astype(TYPES[target][0])
