"""Starts one role of the gateway: `PATCHBAY_ROLE=ingest` or `ledger`."""

from __future__ import annotations

from webhook_gateway.app import create
from webhook_gateway.settings import Settings

if __name__ == "__main__":
    create(Settings()).run()
