from .duels import Bout, Choice, Duel, Judgement, Outcome
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
    "Bout",
    "Choice",
    "Duel",
    "Item",
    "Judgement",
    "Outcome",
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
    "SetVersion",
    "TargetState",
]
