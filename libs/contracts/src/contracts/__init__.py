"""What crosses Kafka between Patchbay services: envelope, topics, events, commands, errors.

Imports pydantic and the standard library only; must never do I/O.
"""
