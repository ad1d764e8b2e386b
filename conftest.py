"""Fixtures of the whole workspace: real servers, started when the first test asks for them."""

# The folder sandbox/ has the name of its package, and importlib mode would register the bare folder instead.
import sandbox  # noqa: F401

pytest_plugins = ["chassis.testing.fixtures"]
