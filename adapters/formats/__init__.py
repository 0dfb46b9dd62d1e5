"""Readers of files that others wrote: capped, strict, and without running any of it."""
