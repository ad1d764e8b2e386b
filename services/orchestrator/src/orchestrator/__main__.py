"""Starts the orchestrator."""

from __future__ import annotations

from orchestrator.app import create
from orchestrator.settings import Settings

if __name__ == "__main__":
    create(Settings()).run()
