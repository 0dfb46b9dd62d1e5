"""In which script a text is written, by the code points of its letters.

That tells Chinese from English, not English from German: it is a test of the script, and is named so wherever it shows.
Ranges: the Unicode blocks that hold the script's letters (https://www.unicode.org/Public/UNIDATA/Blocks.txt).
"""

from __future__ import annotations

RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
    "han": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
    "japanese": (
        (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    ),
    "hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    "cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF)),
    "hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "thai": ((0xE00, 0xE7F),),
}  # fmt: skip


def share(text: str, script: str) -> float | None:
    """How much of the letters of a text are of this script, 0 to 1; None for a text without letters."""
    ranges = RANGES[script]
    letters = [ord(character) for character in text if character.isalpha()]
    if not letters:
        return None
    return sum(any(low <= code <= high for low, high in ranges) for code in letters) / len(letters)
