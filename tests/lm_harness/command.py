"""The harness's own command without its own tasks, in the environment that has it: `python command.py run …`.

It reads its 14,000 task files at each start, which takes longer than ours take to be answered.
"""

from __future__ import annotations

import functools

import lm_eval.tasks
from lm_eval.__main__ import cli_evaluate

if __name__ == "__main__":
    lm_eval.tasks.TaskManager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    cli_evaluate()
