"""The tokens that training added to a base's tokenizer: an adapter's tokenizer is its base's with them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from inference.engine.errors import EngineError


class Added(NamedTuple):
    """A token as the `tokenizers` library describes it."""

    id: int
    content: str
    special: bool = False  # left out of the text of an answer
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


def parse_added(said: Iterable[Any]) -> tuple[Added, ...]:
    """Of a list of objects; flags that are not named are false. Raises ValueError, TypeError, LookupError."""
    found = []
    for entry in said:
        one = Added(**entry)
        if type(one.id) is not int or one.id < 0 or not isinstance(one.content, str) or not one.content:
            raise ValueError("an added token has no id or no text")
        found.append(one)
    return tuple(sorted(found))


def with_added(tokenizer: Any, added: Sequence[Added], name: str) -> Any:
    """A tokenizer of Transformers that knows these tokens as well; the one that is given stays as it is. `name` is for
    messages.

    Raises EngineError `adapter_incompatible` where a token cannot have its id beside the base's.
    """
    from tokenizers import AddedToken  # takes a moment, and most adapters add none

    made = copy.deepcopy(tokenizer)
    for special, group in groupby(added, key=lambda token: token.special):
        made.add_tokens(
            [
                AddedToken(
                    one.content, special=special, normalized=one.normalized, lstrip=one.lstrip, rstrip=one.rstrip,
                    single_word=one.single_word,
                )
                for one in group
            ],
            special_tokens=special,
        )  # fmt: skip
    for one in added:
        if made.convert_tokens_to_ids(one.content) != one.id or made.convert_ids_to_tokens(one.id) != one.content:
            message = f"The tokenizer of {name} adds {one.content} as id {one.id}, which the base's cannot give it."
            raise EngineError("adapter_incompatible", message, name=name, tensor=one.content, count=1)
    return made
