"""The HTTP API of the ledger role, one module per resource; `routes` of `webhook_gateway.ledger.table` has all."""
