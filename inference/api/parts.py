"""Parts of answers that several doors send."""

from __future__ import annotations

from common.answers import Answer


class BlendPartObject(Answer):
    """An adapter that had a part in the answer of a blend."""

    model: str
    weight: float
    digest: str
