"""Services that are started while their stores are away wait for them, say so, and can be told to stop meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from chassis.testing.processes import wait_until
from tests.conftest import Platform
from tools.dev.http import readiness

pytestmark = pytest.mark.e2e

WITH_DATABASE = ("sync-worker", "health-monitor", "verification", "orchestrator")
ALL = (*WITH_DATABASE, "gateway")
PATIENCE_S = 60.0


def test_services_wait_for_stores_that_are_away(platform: Platform) -> None:
    stack = platform.stack

    def says(name: str, words: str) -> None:
        wait_until(lambda: words in readiness(stack.url(name)).reason, deadline_s=PATIENCE_S, what=f"{name}: {words}")

    for name in ALL:
        stack.stop(name)
    stack.postgres.kill()
    stack.kafka.kill()
    with ThreadPoolExecutor(max_workers=len(ALL)) as pool:
        starting = [pool.submit(stack.start, name) for name in ALL]
        for name in WITH_DATABASE:
            says(name, "waiting for the database")
        leaving = stack.processes()["verification"]
        assert leaving.stop(grace_s=10), "it did not stop while it waited"
        assert leaving.returncode == 0, leaving.log.read_text()[-2000:]
        stack.postgres.start()
        for name in ALL:
            if name != "verification":
                says(name, "waiting for Kafka")
        stack.kafka.start()
        failed = [one.exception() for one in starting]
    assert [type(one).__name__ for one in failed if one] == ["ProcessError"], "only the one that was told to stop"
    stack.start("verification")
    assert all(readiness(stack.url(name)).ready for name in ALL)
