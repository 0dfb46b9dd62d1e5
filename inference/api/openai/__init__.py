"""The OpenAI-compatible API: what its official clients send and expect, over the same manager as every other door."""
