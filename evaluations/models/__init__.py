from .duels import Bout, Choice, Duel, Judgement, Outcome
from .gates import Family, Gate, GateVerdict, Notice, NoticeState, VerdictState
from .parity import Parity, Sample
from .queued import UNDER_WAY, Queued, RunState
from .runs import Answer, Result, Run, RunTarget, Score, TargetState
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
    "Queued",
    "Result",
    "Run",
    "RunState",
    "RunTarget",
    "Sample",
    "Score",
    "SetVersion",
    "TargetState",
    "UNDER_WAY",
    "SetVersion",
    "TargetState",
    "UNDER_WAY",
    "VerdictState",
    "SetVersion",
    "TargetState",
    "UNDER_WAY",
]
