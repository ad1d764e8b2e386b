"""The whole platform for end-to-end and chaos tests: the stack of `make up`, in a folder and on ports of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tools.dev.stack import Stack


class Platform:
    """A running stack, and a client that an operator would use."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.env = stack.environment()
        self.api = httpx.Client(headers={"authorization": f"Bearer {self.env['PATCHBAY_TOKEN']}"}, timeout=20)


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Start everything once; stop it at the end. Its logs are printed only if it does not come up."""
    folder = Path(tempfile.mkdtemp(prefix="patchbay-e2e-"))
    stack = Stack(folder)
    try:
        stack.up()
        found = Platform(stack)
        yield found
        found.api.close()
    finally:
        stack.down()
        shutil.rmtree(folder)
