"""Where the modules of a file belong in a base model whose own names are longer or shorter at their beginning.

What is looked for is one way to exchange the beginning of all names at once, after which every matrix fits. Where there
are two, which one is right only who trained the adapter knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from adapters.bases.shapes import BaseShapes
from adapters.failures import Refused

from .plan import PREFIX

# What PEFT, wrappers of training and multimodal models put in front of the names of layers.
LEADING = {"base_model", "model", "module", "language_model", "transformer", "gpt_neox"}
Sizes = Mapping[str, tuple[int | None, int | None]]  # stem -> (out, in) of its matrices, where they are there


def find(stems: Sizes, others: list[str], base: BaseShapes) -> dict[str, str] | None:
    """stem -> its name in the repaired file, with PEFT's prefix. None where no one way fits all.

    `stems`: of LoRA matrices; `others`: of whatever else the file holds. Raises Refused repair_ambiguous.
    """
    outside = {stem for stem in stems if _core(stem) in {"lm_head", "embed_out"}}
    layers = {stem: sizes for stem, sizes in stems.items() if stem not in outside}
    found = _exchanged(layers, base) if layers else {}
    if found is None:
        return None
    names = [*base.names, *base.embeddings, *(name.rpartition(".")[0] for name in base.others)]
    for stem in [*outside, *(stem for stem in others if stem not in stems)]:
        module = _alone(stem, names)
        if module is None:
            return None
        found[stem] = PREFIX + module
    return found if len(set(found.values())) == len(found) else None


def _exchanged(stems: Sizes, base: BaseShapes) -> dict[str, str] | None:
    if all(stem.startswith(PREFIX) and _fits(stem[len(PREFIX) :], sizes, base) for stem, sizes in stems.items()):
        return {stem: stem for stem in stems}  # as PEFT itself reads them
    first = next(iter(stems))
    rest = _core(first)
    heads: dict[str, set[str]] = defaultdict(set)
    for name in base.names:
        for head, core in _split(name) if name.endswith(rest) else ():
            heads[core].add(head)
    ways = {(head, own) for head, core in _split(first) for own in heads.get(core, ())}
    fitting: dict[tuple[str, ...], None] = {}
    for old, new in sorted(ways):
        modules = [new + stem[len(old) :] if stem.startswith(old) else "" for stem in stems]
        if all(_fits(module, sizes, base) for module, sizes in zip(modules, stems.values(), strict=True)):
            fitting[tuple(modules)] = None
    if len(fitting) > 1:
        one, other = list(fitting)[:2]
        raise Refused("repair_ambiguous", first=one[0], second=other[0])
    return {s: PREFIX + module for s, module in zip(stems, next(iter(fitting)), strict=True)} if fitting else None


def _fits(module: str, sizes: tuple[int | None, int | None], base: BaseShapes) -> bool:
    shape = base.module(module) or base.module(base.earlier_names.get(module, ""))
    return shape is not None and all(size in (None, own) for size, own in zip(sizes, shape, strict=True))


def _alone(stem: str, names: list[str]) -> str | None:
    """The one module of the base that is called so but for its beginning. Raises Refused repair_ambiguous."""
    if stem.startswith(PREFIX) and (stem[len(PREFIX) :] in names or stem[len(PREFIX) :] == "lm_head"):
        return stem[len(PREFIX) :]
    core = _core(stem)
    found = sorted({name for name in names if _core(name) == core})
    if len(found) > 1:
        raise Refused("repair_ambiguous", first=found[0], second=found[1])
    if found:
        return found[0]
    return core if core == "lm_head" else None  # tied to the embeddings: the base's file holds it once


def _split(name: str) -> Iterator[tuple[str, str]]:
    """Every (beginning, rest) of a name whose beginning is made of words that may be exchanged."""
    yield "", name
    head = ""
    for word in name.split(".")[:-1]:
        if word not in LEADING:
            return
        head += f"{word}."
        yield head, name[len(head) :]


def _core(name: str) -> str:
    return list(_split(name))[-1][1]
