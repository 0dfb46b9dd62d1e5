"""The adapter doctor: files of other tools, read as the PEFT adapter that they hold, where exactly one way fits.

A plan says for each tensor of the repaired file where its numbers lie and how they are turned round; nothing is written
here. Which of these files may be repaired is decided by the same checks as for any other adapter (`validate.py`).
"""
