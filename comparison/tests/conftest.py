from inference.tests.conftest import registry

__all__ = ["registry"]
