from .gates import Family, Gate, GateVerdict, Notice, NoticeState, VerdictState
from .parity import Parity, Sample
from .runs import Answer, Result, Run, RunState, RunTarget, Score, TargetState
from .sets import Item, PromptSet, SetVersion

__all__ = [
    "Answer",
    "Item",
    "Parity",
    "Family",
    "Gate",
    "GateVerdict",
    "Item",
    "Notice",
    "NoticeState",
    "PromptSet",
    "Result",
    "Run",
    "RunState",
    "RunTarget",
    "Sample",
    "Score",
    "SetVersion",
    "TargetState",
    "SetVersion",
    "TargetState",
    "VerdictState",
]
