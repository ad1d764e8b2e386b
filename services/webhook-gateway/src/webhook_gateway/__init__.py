"""Verifies providers' webhooks, writes them durably to Kafka and only then answers; its ledger role stores them."""
