"""All SQL of the health monitor: `routes` and decisions, `operators`' wishes, call `counts` and versions, `quotas`."""
