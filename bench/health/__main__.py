"""The command line of `make bench-health`."""

from __future__ import annotations

import argparse
import asyncio

from bench.health.real import follow, real
from bench.health.virtual import virtual


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.health", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs per fault in virtual time")
    parser.add_argument("--outages", type=int, default=5, help="outages of the whole service in real time")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.follow:
        asyncio.run(follow(given.follow, given.epochs))
        return
    virtual(given.runs)
    asyncio.run(real(given.epochs, given.outages))


if __name__ == "__main__":
    main()
