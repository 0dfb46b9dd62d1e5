from .runs import Answer, Result, Run, RunState, RunTarget, Score, TargetState
from .sets import Item, PromptSet, SetVersion

__all__ = [
    "Answer",
    "Item",
    "PromptSet",
    "Result",
    "Run",
    "RunState",
    "RunTarget",
    "Score",
    "SetVersion",
    "TargetState",
]
