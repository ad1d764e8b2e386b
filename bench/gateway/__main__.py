"""`python -m bench.gateway SCENARIO`: see bench/README.md for what each one shows."""

from __future__ import annotations

import argparse
import asyncio

import uvloop

from bench.gateway import scenarios
from bench.gateway.mutations import mutations
from chassis.service import settle_garbage_collector

SCENARIOS = {
    "rate": scenarios.rate,
    "latency": scenarios.latency,
    "mixed": scenarios.mixed,
    "sizes": scenarios.sizes,
    "flood": scenarios.flood,
    "memory": scenarios.memory,
    "outage": scenarios.outage,
    "restart": scenarios.restart,
    "mutations": mutations,
}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], default=[])
    given = parser.parse_args()
    settle_garbage_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for name in given.scenario or SCENARIOS:
            print(f"== {name}: {(SCENARIOS[name].__doc__ or '').splitlines()[0]}", flush=True)
            runner.run(SCENARIOS[name]())


if __name__ == "__main__":
    main()
