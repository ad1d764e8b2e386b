"""Starts the sync worker."""

from __future__ import annotations

from sync_worker.app import create
from sync_worker.settings import Settings

if __name__ == "__main__":
    create(Settings()).run()
