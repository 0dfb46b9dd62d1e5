"""Does a test fail when a protection is taken away? `python -m tests.mutations` tries it, one protection at a time.

Each file of `listed/` holds the protections of one section of `docs/security.md`, and what to change to remove each.
"""
