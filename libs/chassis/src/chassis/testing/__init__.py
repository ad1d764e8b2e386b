"""Private Kafka, PostgreSQL and Redis processes for tests and `make up`; never imported by production code."""
