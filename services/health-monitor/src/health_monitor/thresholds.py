"""Thresholds of the charts for one false alarm per 30 days: a Markov chain derives them, a table holds them.

A Bernoulli CUSUM moves up by ln(p1/p0) on a failure and down by ln((1-p0)/(1-p1)) on a success, never below zero.
On a lattice of these steps it is a Markov chain whose mean time to pass h solves a banded system of equations
(health-monitor.md §4.1). Must never be asked at run time for what is not in the table: look-ups round to the safe side.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Final

FALSE_ALARM_DAYS: Final = 30
_DAY_S: Final = 86_400

OUTAGE_P1: Final = 0.9
DEGRADED_P1: Final = 0.2
# Slow calls: more than two seconds, one in a hundred is normal.
LATENCY_P0: Final = 0.01
LATENCY_P1: Final = 0.15

# The lattice is as fine as it takes for the upward step to be a whole number of lattice steps within this error.
_STEP_ERROR: Final = 0.004
_FINEST: Final = 64

# Below the first nobody's error ratio can be told from a short glitch; above the last the degraded chart would learn to
# accept.
BASELINES: Final = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05)
RATES: Final = (1, 3, 10, 30, 100, 300, 1000)


def steps(p0: float, p1: float) -> tuple[float, float]:
    """Return how far a failure lifts a chart and how far a success lowers it, both positive."""
    return math.log(p1 / p0), math.log((1 - p0) / (1 - p1))


def derive(p0: float, p1: float, rate: float, days: float = FALSE_ALARM_DAYS) -> float:
    """Return the smallest h with at most one false alarm in `days` at `rate` independent calls per second.

    Blocking, some milliseconds: for tables and tests.
    """
    up, down = steps(p0, p1)
    high, low, size = _lattice(up, down)
    wanted = days * _DAY_S * rate
    below, above = 0, 1
    while mean_calls(p0, high, low, above) < wanted:
        below, above = above, above * 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if mean_calls(p0, high, low, middle) >= wanted else (middle, above)
    return above * size


def calls_to_alarm(p: float, p0: float, p1: float, h: float) -> float:
    """Return the mean number of calls until a fresh chart for p0 against p1 passes h while a share `p` fails."""
    high, low, size = _lattice(*steps(p0, p1))
    return mean_calls(p, high, low, round(h / size))


def _lattice(up: float, down: float) -> tuple[int, int, float]:
    """Return the steps up and down in lattice points, and the size of a point."""
    for low in range(1, _FINEST + 1):
        high = round(up * low / down)
        if high and abs(high * down / low - up) / up <= _STEP_ERROR:
            break
    return high, low, down / low


def mean_calls(p: float, high: int, low: int, top: int) -> float:
    """Return the mean number of steps from 0 until the walk is above `top`.

    Solves x(i) = 1 + p x(i + high) + (1 - p) x(max(0, i - low)), x(i > top) = 0, by elimination from the top down:
    x(i) = a(i) + sum of b(i, j) x(j) over the `low` points below i, which are all that a state can still depend on.
    """
    q = 1 - p
    size = top + 1
    constant = [0.0] * size
    # For each state the weights of the states i-1 … i-low, nearest first.
    weights: list[list[float]] = [[] for _ in range(size)]
    for state in range(top, -1, -1):
        row = {max(0, state - low): q}
        value = 1.0
        if state + high <= top:
            row[state + high] = row.get(state + high, 0.0) + p
        value, row = _substituted(state, value, row, constant, weights)
        own = 1 - row.pop(state, 0.0)
        constant[state] = value / own
        weights[state] = [row.get(state - distance, 0.0) / own for distance in range(1, low + 1)]
    return constant[0]


def _substituted(
    state: int, value: float, row: dict[int, float], constant: list[float], weights: list[list[float]]
) -> tuple[float, dict[int, float]]:
    """Replace every state above `state` in a row by what it depends on further down."""
    for above in range(max(row), state, -1):
        factor = row.pop(above, 0.0)
        if not factor:
            continue
        value += factor * constant[above]
        for distance, weight in enumerate(weights[above], start=1):
            target = max(0, above - distance)
            if weight:
                row[target] = row.get(target, 0.0) + factor * weight
    return value, row


# What `derive` says, by baseline and rate; re-derived by the tests and by tools/simulate_health.py.
_Table = tuple[tuple[float, ...], ...]
OUTAGE: Final[_Table] = (
    (11.03, 13.94, 15.62, 15.62, 16.24, 18.53, 20.83),
    (14.40, 14.40, 14.40, 14.81, 16.90, 19.20, 19.20),
    (13.46, 13.46, 15.65, 15.65, 17.94, 17.94, 20.13),
    (12.25, 14.05, 16.34, 16.34, 17.65, 18.14, 20.42),
    (12.93, 15.22, 15.22, 16.74, 18.26, 19.02, 19.78),
    (13.63, 13.63, 14.77, 17.04, 18.18, 18.18, 20.45),
    (12.86, 14.47, 15.12, 17.37, 18.01, 18.65, 20.26),
)
DEGRADED: Final[_Table] = (
    (11.87, 12.96, 14.05, 15.30, 16.42, 17.48, 18.76),
    (12.07, 12.99, 14.28, 15.36, 16.55, 17.68, 18.92),
    (12.05, 13.14, 14.40, 15.48, 16.62, 17.85, 18.97),
    (12.07, 13.21, 14.35, 15.50, 16.75, 17.79, 19.03),
    (12.04, 13.12, 14.34, 15.42, 16.57, 17.72, 18.87),
    (11.98, 13.04, 14.26, 15.38, 16.57, 17.66, 18.85),
    (11.90, 13.00, 14.20, 15.33, 16.53, 17.64, 18.86),
)
LATENCY: Final[tuple[float, ...]] = (11.70, 12.81, 14.03, 15.13, 16.31, 17.38, 18.60)


def baseline(ratio: float) -> float:
    """Return the baseline that a healthy failure ratio is judged by: the next one of the table that is not below it."""
    return BASELINES[min(bisect_left(BASELINES, ratio), len(BASELINES) - 1)]


def threshold(table: _Table, p0: float, rate: float) -> float:
    """Return h for a baseline of the table and calls per second; a rate between two columns takes the larger h."""
    return table[BASELINES.index(p0)][_column(rate)]


def latency_threshold(rate: float) -> float:
    """Return h of the latency chart for calls per second."""
    return LATENCY[_column(rate)]


def _column(rate: float) -> int:
    return min(bisect_left(RATES, rate), len(RATES) - 1)
