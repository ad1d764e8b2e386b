"""Kafka: the batch loop, the producer, state topics. The only importer of FastStream and aiokafka."""
