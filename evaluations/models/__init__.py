from .gates import Family, Gate, GateVerdict, Notice, NoticeState, VerdictState
from .runs import Answer, Result, Run, RunState, RunTarget, TargetState
from .sets import Item, PromptSet, SetVersion

__all__ = [
    "Answer",
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
    "SetVersion",
    "TargetState",
    "VerdictState",
]
