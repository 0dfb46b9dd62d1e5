"""vLLM replicas, or a router before them, as a `Backend`: one address for each base model (docs/scale.md)."""
