"""Creates the topics that contracts declare: `python -m chassis.kafka.topics`. Idempotent; never alters or deletes."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NoError, TopicAlreadyExistsError, for_code

from contracts.topics import PhysicalTopic, physical_topics

# Topics per request: a single-node broker takes about 10 ms per partition directory.
_CHUNK: Final = 40
_TIMEOUT_MS: Final = 60_000


async def create_topics(bootstrap: str, *, replication: int = 1, topics: list[PhysicalTopic] | None = None) -> int:
    """Create what is missing and return how many topics that were. Raises `KafkaError` when the broker refuses."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=_TIMEOUT_MS)
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        missing = [topic for topic in topics or physical_topics() if topic.name not in existing]
        for start in range(0, len(missing), _CHUNK):
            await _create(admin, missing[start : start + _CHUNK], replication)
    finally:
        await admin.close()
    return len(missing)


async def _create(admin: AIOKafkaAdminClient, topics: list[PhysicalTopic], replication: int) -> None:
    new = [NewTopic(t.name, t.partitions, replication, topic_configs=t.config) for t in topics]
    response = await admin.create_topics(new, timeout_ms=_TIMEOUT_MS)
    for name, code, *_ in response.topic_errors:
        # "Already exists" means that two deployments raced with the same declaration.
        if code not in (NoError.errno, TopicAlreadyExistsError.errno):
            raise for_code(code)(f"topic {name} was not created")


def main() -> None:
    """Entry point."""
    bootstrap = os.environ["PATCHBAY_KAFKA_BOOTSTRAP"]
    created = asyncio.run(create_topics(bootstrap, replication=int(os.environ.get("PATCHBAY_KAFKA_REPLICATION", "1"))))
    print(f"{created} topics created, {len(physical_topics()) - created} were there")  # noqa: T201


if __name__ == "__main__":
    main()
