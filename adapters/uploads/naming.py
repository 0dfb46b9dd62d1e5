"""What may arrive: kinds and names of files. Used by the web process and by the child that unpacks archives.

Knows neither Django nor the rest of the project.
"""

from __future__ import annotations

KEPT = (".safetensors", ".json", ".jsonl", ".jinja")
MODEL_CARD = "README.md"  # where the base model's name may stand
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
MAX_FILES = 1000
MAX_DEPTH = 6  # folders above a file
MAX_PART = 128  # characters of a name
MAX_PART_BYTES = 255  # of a name in UTF-8, as file systems have it
MAX_PATH = 512  # characters


def is_kept(name: str) -> bool:
    return name.lower().endswith(KEPT) or name == MODEL_CARD


def is_archive(path: str) -> bool:
    return path.lower().endswith(ARCHIVES)


def is_pickle(path: str) -> bool:
    return path.lower().endswith(PICKLES)


def is_clutter(parts: tuple[str, ...]) -> bool:
    """What file managers put beside everything."""
    return parts[0] == "__MACOSX" or parts[-1].startswith("._") or parts[-1] in {".DS_Store", "Thumbs.db"}


def parts_of(path: str) -> tuple[str, ...] | str:
    """The names on a relative path with "/" between them, or why it is refused: `escapes`, `bad_name`."""
    if path.startswith("/") or "\\" in path or "\0" in path or path[1:2] == ":":
        return "escapes"
    parts = tuple(part for part in path.split("/") if part not in {"", "."})
    if ".." in parts:
        return "escapes"
    good = parts and len(path) <= MAX_PATH and len(parts) <= MAX_DEPTH + 1 and all(map(_is_name, parts))
    return parts if good else "bad_name"


def _is_name(part: str) -> bool:
    if not part.isprintable() or part != part.strip() or len(part) > MAX_PART:
        return False
    try:
        return len(part.encode()) <= MAX_PART_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def stem(name: str) -> str:
    """The name of an archive without its ending."""
    ending = next((ending for ending in sorted(ARCHIVES, key=len, reverse=True) if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] if ending else name


def folder_name(wanted: str) -> str:
    """A name for the adapter's folder made of what somebody wants: letters, digits, ".", "_" and "-"."""
    text = "".join(c if c.isalnum() or c in "._-" else "-" for c in wanted.strip()).strip(".-")
    while "--" in text:
        text = text.replace("--", "-")
    return text[:80].rstrip(".-") or "adapter"
