"""Fixtures of the whole workspace: real servers, started when the first test asks for them."""

import os

from hypothesis import settings

# The folder sandbox/ has the name of its package, and importlib mode would register the bare folder instead.
import sandbox  # noqa: F401

pytest_plugins = ["chassis.testing.fixtures"]

# The gate judges a change by the same examples each time; `HYPOTHESIS_PROFILE=search` looks for new ones.
settings.register_profile("gate", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
