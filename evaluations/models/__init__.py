from .duels import Bout, Choice, Duel, Judgement, Outcome
from .runs import Answer, Result, Run, RunState, RunTarget, TargetState
from .sets import Item, PromptSet, SetVersion

__all__ = [
    "Answer",
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
    "SetVersion",
    "TargetState",
]
