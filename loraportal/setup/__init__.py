"""From a fresh clone to a running portal. What is in here runs before anything is installed: standard library only."""
