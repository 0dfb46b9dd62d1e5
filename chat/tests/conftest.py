from inference.tests.conftest import make_manager, manager, registry

__all__ = ["make_manager", "manager", "registry"]
