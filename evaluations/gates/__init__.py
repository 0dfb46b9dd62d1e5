"""Gates: an adapter of a family becomes active only once it has shown that it is good enough."""
