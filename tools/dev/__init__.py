"""The local stack without containers: Kafka, PostgreSQL, Redis, the services and the sandbox as private processes."""
