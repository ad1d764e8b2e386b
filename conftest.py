"""Fixtures of the whole workspace: real servers, started when the first test asks for them."""

pytest_plugins = ["chassis.testing.fixtures"]
