"""The runtime that all services share: Kafka, Postgres, HTTP, telemetry. Knows no domain and no provider."""
