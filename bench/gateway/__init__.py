"""`make bench-gateway`: the webhook gateway under load, beside a bare handler in the same run."""
