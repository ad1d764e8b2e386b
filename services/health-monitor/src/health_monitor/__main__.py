"""Starts the health monitor."""

from __future__ import annotations

from health_monitor.app import create
from health_monitor.settings import Settings

if __name__ == "__main__":
    create(Settings()).run()
