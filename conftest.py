"""Fixtures for all tests of the project: see tests/fixtures."""

pytest_plugins = [
    "tests.fixtures.isolation",
    "tests.fixtures.processes",
    "tests.fixtures.people",
    "tests.fixtures.models",
    "tests.fixtures.portal",
    "tests.fixtures.browser",
    "tests.fixtures.hub",
]
