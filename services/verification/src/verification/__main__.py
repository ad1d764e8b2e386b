"""Starts the verification service."""

from __future__ import annotations

from verification.app import create
from verification.settings import Settings

if __name__ == "__main__":
    create(Settings()).run()
