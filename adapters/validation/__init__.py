"""Validating an adapter folder: may it be served, and if not, why not."""
