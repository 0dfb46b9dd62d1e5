"""Regular expressions from adapter configs, matched as PEFT matches them, in bounded time and memory.

They come from whoever wrote the file, and Python's `re` can neither be interrupted nor does it let other threads run:
one pattern that backtracks holds a whole process. So `re` never matches here. A pattern is parsed by Python's own
parser, which is quick for any text of bounded length; what RE2 (linear time) can say with exactly the same meaning is
matched by RE2, everything else by `re` in a child process under limits. There is no estimate of what is simple.

Registry, engine and evaluations use this package; it needs nothing but the standard library and `re2`.
"""

from .errors import InvalidPatternError, SlowPatternError
from .rules import endings, layers, whole
from .search import check_search, search
from .syntax import check

__all__ = [
    "InvalidPatternError", "SlowPatternError", "check", "check_search", "endings", "layers", "search", "whole"
]  # fmt: skip
